"""The portfolio of a space: published configurations, those that the space has, before what the sampler proposes."""

from typing import Any

import pytest

from hpo.errors import SpaceError
from hpo.search.preflight import search_notes, space_of_study
from hpo.search.proposals import published
from hpo.space.fitting import fitted, fitted_portfolio
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces
from tests.search.scripted import led, plain_trials, study_at

DEFAULT = {"source": "the default again", "batch_size": 8}
FIRST = {"source": "A. 2020", "learning_rate": 6e-5, "batch_size": 32}
SPACE = {
    "portfolio": [DEFAULT, FIRST, {**FIRST, "source": "B. 2021"}, {"source": "C. 2022", "batch_size": 64}],
    "learning_rate": {"relative_to": {"adamw": 3e-5}, "distribution": "log_uniform_values", "min": 0.1, "max": 10.0},
    "batch_size": {"values": [8, 32], "default": 8},
}
URL = "sqlite:///unused.db"


def test_a_search_tries_those_that_its_space_has_after_the_default_each_once(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, space=SPACE)):
        pass
    trials = plain_trials(sqlite_url)
    assert [(one.user_attrs.get("proposed_by"), one.system_attrs["fixed_params"]) for one in trials] == [
        (None, {"learning_rate_multiplier": 1.0, "batch_size": 8}),
        ("portfolio", {"learning_rate_multiplier": pytest.approx(2.0), "batch_size": 32}),
    ]


@pytest.mark.parametrize(
    ("changes", "tried"),
    [
        ({}, 1),
        ({"search": {"portfolio": False}}, 0),
        ({"budget": {"trials": 3}}, 0),
        ({"budget": {"trials": None, "time": "1h"}}, 1),
        ({"space": SPACE | {"portfolio": []}}, 0),
        ({"space": SPACE | {"batch_size": {"value": 8}}}, 0),
    ],
)
def test_it_comes_off_in_a_line_and_takes_at_most_a_quarter_of_the_trials(changes: dict[str, Any], tried: int) -> None:
    config = study_at(URL, **{"space": SPACE} | changes)
    space = space_of_study(config)
    assert len(published(config, space)) == tried
    assert any("search.portfolio=false" in note for note in search_notes(config, space)) == bool(tried)


def test_an_override_of_a_shipped_space_keeps_its_portfolio_but_for_what_it_excludes() -> None:
    def tried(*overrides: str) -> int:
        from hpo.config.loading import load_config

        content = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}, "space": "encoder"}
        config = load_config(values=content, overrides=overrides)
        return len(published(config, space_of_study(config)))

    assert tried() == tried("space.max_length.value=256") == 2
    assert tried("space.layerwise_rate_decay.value=1.0") == 1
    assert tried("space.batch_size.value=16") == tried("search.portfolio=false") == tried("space.portfolio=[]") == 0


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_configuration_can_be_proposed_by_its_space(name: str) -> None:
    space = load_space(name)
    assert len(fitted_portfolio(space)) == len(space.portfolio)
    for one in space.portfolio:
        made = space.hyperparameters(fitted(space, one.values, one.source)).to_mapping()
        assert {key: made[key] for key in one.values} == pytest.approx(dict(one.values))


def test_the_space_of_the_demo_has_none() -> None:
    assert load_space("quickstart").portfolio == ()


WRONG: list[tuple[Any, str]] = [
    ({"batch_size": 8}, "must be a list of configurations"),
    ([8], "must be a list of configurations"),
    ([{"batch_size": 8}], "each configuration needs a `source`"),
    ([{"source": "A.", "batchsize": 8}], "unknown hyperparameter 'batchsize'. Did you mean 'batch_size'?"),
    ([{"source": "A.", "batch_size": "8"}], "'batch_size' is '8'"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_what_is_no_portfolio_is_a_sentence(given: Any, said: str) -> None:
    with pytest.raises(SpaceError) as error:
        SearchSpace.from_mapping(SPACE | {"portfolio": given}, "mine")
    assert "Space mine, portfolio" in str(error.value)
    assert said in str(error.value)


def test_all_mistakes_of_a_portfolio_are_told_beside_those_of_the_space() -> None:
    wrong = {"portfolio": [{"batch_size": 8}, {"source": "A.", "epoch": 2}], "epochs": {"min": 3, "max": 1}}
    with pytest.raises(SpaceError, match="3 mistakes"):
        SearchSpace.from_mapping(wrong, "mine")
