"""Fitting of configurations into a space: what `hpo enqueue` takes as it is, a warm start as far as the space goes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.errors import ConfigurationError, SpaceError
from hpo.space.domains import same
from hpo.space.fitting import carried_over, fitted, in_our_names
from hpo.space.search_space import SearchSpace
from tests.space.random_spaces import RELATIVE, mappings, random_trial

SPACE = SearchSpace.from_mapping(RELATIVE, "relative")
SAMPLED = [parameter.name for parameter in SPACE.parameters if parameter.is_sampled]


def test_every_configuration_that_a_space_proposes_fits_into_it_as_it_was() -> None:
    """What `hpo export` writes of a trial names every hyperparameter, and its real rate."""
    for optimizer in ({"optimizer": "adamw"}, {"optimizer": "momentum", "momentum": 0.7}):
        for multiplier in (0.03, 1.0, 7.123456789, 30.0):
            for method in ("full", "head"):
                values = SPACE.default_values() | optimizer | {"learning_rate": multiplier, "method": method}
                made = SPACE.hyperparameters(values)
                found = fitted(SPACE, made.to_mapping(), "best.yaml")
                assert SPACE.hyperparameters(found) == made
                assert SPACE.sampled(found).keys() == SPACE.sampled(values).keys()
                assert found["learning_rate"] == pytest.approx(multiplier, rel=1e-12)
                assert 0.03 <= float(found["learning_rate"] or 0) <= 30.0


def test_the_rate_is_turned_into_the_multiplier_of_its_own_optimizer_and_method() -> None:
    given = {"learning_rate": 0.2, "optimizer": "momentum", "method": "head"}
    assert fitted(SPACE, given, "mine")["learning_rate"] == pytest.approx(2.0)


def test_what_is_not_given_is_as_in_the_default_configuration() -> None:
    assert fitted(SPACE, {"dropout": 0.15}, "mine") == SPACE.default_values() | {"dropout": 0.15}


def test_other_libraries_names_and_values_become_ours_and_an_exported_configuration_stays() -> None:
    given = {"lr": 0.2, "optim": "adamw_torch", "per_device_train_batch_size": 16}
    ours, notes = in_our_names(given, "mine")
    assert ours == {"learning_rate": 0.2, "optimizer": "adamw", "batch_size": 16}
    assert "lr is taken for learning_rate." in notes
    made = SPACE.hyperparameters(SPACE.default_values()).to_mapping()
    assert in_our_names(made, "best.yaml") == (made, [])
    with pytest.raises(SpaceError, match="both learning_rate"):
        in_our_names({"lr": 0.1, "learning_rate": 0.2}, "mine")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"lr": 1e-4}, "mine: unknown hyperparameter 'lr'. Here it is learning_rate."),
    ({"epoch": 1}, "Did you mean 'epochs'?"),
    ({"lr": 1, "epoch": 1, "dropout": 2}, "mine: 3 mistakes"),
    ({"epochs": "two"}, "'epochs' is 'two'"),
    ({"epochs": 4}, "mine: epochs is 4, but the study tries 1 … 3, whole numbers; take one of these"),
    ({"dropout": 0.07}, "dropout is 0.07, but the study tries 0 … 0.5 in steps of 0.05"),
    ({"learning_rate": 1.0}, "learning_rate is 1, but the study tries 9e-07 … 0.0009 with this optimizer and method"),
    ({"optimizer": "adamw", "learning_rate": 1e-2}, "learning_rate is 0.01"),
    ({"batch_size": 32}, "batch_size is 32, but with the rest of it the study trains with batch_size 16"),
    ({"schedule": "cosine"}, "schedule is cosine, but with the rest of it the study trains with schedule linear"),
    ({"momentum": 0.7}, "momentum is 0.7, but with the rest of it the study trains with momentum null"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED)
def test_what_a_space_cannot_propose_is_refused_in_a_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        fitted(SPACE, given, "mine")
    assert said in str(error.value)


# -- a configuration of another search is carried over


@settings(deadline=None, max_examples=30)
@given(mappings(), st.integers(0, 2**31 - 1))
def test_a_configuration_is_carried_over_into_its_own_space_as_it_was(specs: dict[str, Any], seed: int) -> None:
    space = SearchSpace.from_mapping(specs, "random")
    made = space.hyperparameters(space.suggest(random_trial(seed)))
    varied = [parameter.name for parameter in space.parameters if parameter.is_sampled]
    carried = carried_over(space, made.to_mapping(), varied)
    assert isinstance(carried, dict)
    again = space.hyperparameters(carried).to_mapping()
    assert again.keys() == made.to_mapping().keys()
    assert all(same(value, again[name]) for name, value in made.to_mapping().items())


def carried(configuration: dict[str, Any], varied: list[str] = SAMPLED) -> Any:
    trained = SPACE.hyperparameters(SPACE.default_values()).to_mapping()
    return carried_over(SPACE, trained | configuration, varied)


def test_the_real_rate_is_carried_over_whatever_it_was_a_multiple_of() -> None:
    """Momentum's base rate is 1e-2, ten times as much for the head alone."""
    trial = {"optimizer": "momentum", "momentum": 0.8, "method": "head", "learning_rate": 0.3}
    assert carried(trial)["learning_rate"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("configuration", "outside"),
    [
        ({"epochs": 4}, "epochs"),
        ({"dropout": 0.07}, "dropout"),
        ({"learning_rate": 1e-2}, "learning_rate"),
        ({"optimizer": "sgd"}, "optimizer"),
    ],
)
def test_a_value_outside_the_space_is_named(configuration: dict[str, Any], outside: str) -> None:
    assert carried(configuration) == outside


def test_what_the_other_search_did_not_vary_is_as_trained_where_the_space_has_it_and_else_the_default() -> None:
    others = [name for name in SAMPLED if name not in ("dropout", "epochs")]
    assert carried({"dropout": 0.3, "epochs": 3}, others) == SPACE.default_values() | {"dropout": 0.3, "epochs": 3}
    assert carried({"dropout": None, "epochs": 9}, others) == SPACE.default_values()


def test_what_this_search_does_not_vary_is_dropped_but_for_optimizer_and_method() -> None:
    varied = [*SAMPLED, "batch_size", "schedule"]
    assert carried({"batch_size": 64, "schedule": "cosine"}, varied) == SPACE.default_values()
    only_rates = SearchSpace.from_mapping({"learning_rate": {"min": 1e-6, "max": 1.0}}, "rates")
    for name, value in (("method", "head"), ("optimizer", "sgd")):
        trained = {"method": "full", "optimizer": "adamw", "learning_rate": 0.1} | {name: value}
        assert carried_over(only_rates, trained, ["learning_rate", name]) == name
