"""Space to Optuna to values to hyperparameters to YAML and back: nothing is lost, nothing is refused on the way."""

from typing import Any

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import parse_yaml, write_yaml
from hpo.space.domains import Value
from hpo.space.search_space import SearchSpace
from tests.space.random_spaces import BASE_RATES, known_specs, mappings, random_trial

SEEDS = st.integers(0, 2**31)


def read(mapping: dict[str, Any]) -> SearchSpace:
    return SearchSpace.from_mapping(mapping, name="s")


def real_rate(mapping: dict[str, Any], values: dict[str, Value], trained: Hyperparameters) -> float:
    """The rate by hand: the multiplier times one factor for each table."""
    rate = values["learning_rate"]
    assert isinstance(rate, float)
    tables = mapping["learning_rate"].get("relative_to", {})
    if tables == BASE_RATES["optimizer"]:
        return rate * tables[trained.optimizer]
    for field, table in tables.items():
        factor = table[getattr(trained, field)]
        rate *= factor[trained.optimizer] if isinstance(factor, dict) else factor
    return rate


def test_the_random_spaces_are_made_of_every_hyperparameter() -> None:
    assert known_specs(counted=False).keys() == Hyperparameters.model_fields.keys()


@settings(deadline=None)
@given(mapping=mappings())
def test_written_and_read_back_it_is_equal_through_yaml_too(mapping: dict[str, Any]) -> None:
    first = read(mapping)
    written = first.to_mapping()
    assert read(written) == first
    again = parse_yaml(write_yaml(written), "the test")
    assert again == written
    assert read(again).to_mapping() == written


@settings(deadline=None)
@given(mapping=mappings(), seed=SEEDS)
def test_what_optuna_proposes_comes_back_from_yaml_as_it_was(mapping: dict[str, Any], seed: int) -> None:
    space, trial = read(mapping), random_trial(seed)
    values = space.suggest(trial)
    assert space.sampled(values) == trial.params
    assert space.suggest(optuna.trial.FixedTrial(space.sampled(values))) == values
    trained = space.hyperparameters(values)
    assert Hyperparameters(**parse_yaml(write_yaml(trained.to_mapping()), "the test")) == trained


@settings(deadline=None)
@given(mapping=mappings(), seed=SEEDS)
def test_what_is_proposed_is_what_is_trained(mapping: dict[str, Any], seed: int) -> None:
    space = read(mapping)
    values = space.suggest(random_trial(seed))
    trained = space.hyperparameters(values)
    for name in values.keys() - {"learning_rate"}:
        assert getattr(trained, name) == values[name]
    if "learning_rate" in values:
        assert abs(trained.learning_rate / real_rate(mapping, values, trained) - 1) < 1e-12
    for name in values:
        if isinstance(getattr(trained, name), int | float):
            assert getattr(trained, name) <= space.largest(name) * (1 + 1e-12) or getattr(trained, name) < 0


@settings(deadline=None)
@given(mapping=mappings())
def test_the_default_configuration_is_one_that_optuna_takes_as_it_is(mapping: dict[str, Any]) -> None:
    space = read(mapping)
    values = space.default_values()
    study = optuna.create_study()
    study.enqueue_trial(space.sampled(values))
    assert space.suggest(study.ask()) == values
    assert space.hyperparameters(values)


@settings(deadline=None)
@given(mapping=mappings())
def test_parents_come_before_their_children(mapping: dict[str, Any]) -> None:
    seen: list[str] = []
    for parameter in read(mapping).parameters:
        assert all(condition.parent in seen for condition in parameter.when)
        seen.append(parameter.name)
