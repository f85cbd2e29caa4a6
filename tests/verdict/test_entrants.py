"""Entrants of a confirmation: the best configurations of a search, each once, and its default."""

from dataclasses import replace
from typing import Any

import pytest

from hpo.config.study_file import ConfirmationConfig
from hpo.messages import Ending
from hpo.verdict.sequential_halving import Race, distinct, race_of
from tests.verdict.confirmed import study, trial

MANY = [trial(number, 0.5 + number / 100) for number in range(10)]


def race(trials: Any = MANY, budget: int | None = 40, **asked: Any) -> Race | None:
    return race_of(study(trials), ConfirmationConfig(**asked), budget)


def test_the_best_three_meet_the_default_in_a_quarter_of_the_budget() -> None:
    assert race() == Race(finalists=(9, 8, 7), default=0, runs=10, seeds=5)


def test_without_a_number_of_trials_the_race_is_run_to_its_end() -> None:
    assert race(budget=None) == Race(finalists=(9, 8, 7), default=0, runs=12, seeds=5)


@pytest.mark.parametrize(("budget", "runs", "finalists"), [(1, 4, 1), (16, 4, 1), (28, 7, 2), (32, 8, 3)])
def test_of_a_small_budget_there_are_fewer_rivals(budget: int, runs: int, finalists: int) -> None:
    found = race(budget=budget)

    assert found is not None
    assert found.runs == runs
    assert len(found.finalists) == finalists


def test_a_race_of_one_rival_asks_for_no_more_runs_than_it_takes() -> None:
    assert race([trial(0, 0.5), trial(1, 0.6)]) == Race(finalists=(1,), default=0, runs=10, seeds=5)


def test_none_is_run_where_none_is_asked_for_or_nothing_but_the_default_completed() -> None:
    assert race(finalists=0) is None
    assert race([trial(0, 0.5), trial(1, 0.4, state="PRUNED")]) is None
    assert race([]) is None


def test_a_default_that_did_not_complete_takes_no_part() -> None:
    found = race([trial(0, None, state="FAIL"), *MANY[1:]])

    assert found is not None
    assert found.default is None


@pytest.mark.parametrize("state", ["PRUNED", "WAITING"])
def test_a_default_that_was_paused_takes_part(state: str) -> None:
    paused = replace(trial(0, 0.3), state=state, ending=Ending.PAUSED)
    assert race([paused, *MANY[1:]]) == race()


def test_each_configuration_counts_once_and_the_default_not_at_all() -> None:
    repeated = [
        *MANY,
        trial(10, 0.99, configuration=MANY[0].configuration),
        trial(11, 0.98, configuration=MANY[5].configuration),
        trial(12, 0.97, configuration=MANY[5].configuration),
    ]

    assert [one.number for one in distinct(study(repeated))][:2] == [11, 9]
    assert len(distinct(study(repeated))) == 9


def test_a_trial_that_hpo_did_not_train_cannot_be_trained_again() -> None:
    foreign = trial(10, 0.99)
    object.__setattr__(foreign, "configuration", {})

    assert distinct(study([*MANY, foreign]))[0].number == 9


def test_a_default_that_failed_on_its_first_seed_takes_part_by_its_second() -> None:
    again = trial(1, 0.5, configuration=MANY[0].configuration, proposed_by="default")

    found = race([trial(0, None, state="FAIL", configuration=MANY[0].configuration), again, *MANY[2:]])

    assert found is not None
    assert found.default == 1
    assert found.finalists == (9, 8, 7)


def test_what_differs_in_a_seed_that_the_space_names_is_one_configuration() -> None:
    seeds = [trial(number, 0.5 + number / 100, configuration={"batch_size": 8, "seed": number}) for number in (1, 2)]

    assert [one.number for one in distinct(study([MANY[0], *seeds, trial(3, 0.4)]))] == [2, 3]
