"""Who gives trials up, and when: never before its first rung, never where a rung may not decide, never the default."""

from typing import Any

import pytest

from hpo.messages import Assignment, Ending, Outcome
from tests.search.scripted import CPU, SPACE, led, plain_trials, study_at, train

PRUNERS = [
    {"pruner": "median", "pruner_startup_trials": 3},
    {"pruner": "successive_halving", "reduction_factor": 3},
]
BAD = 6


def scores(assignment: Assignment, rung: int) -> float:
    """All good trials score alike, a little better the later they are; trial `BAD` is clearly bad."""
    return 0.1 if assignment.trial == BAD else 0.5 + rung / 4000 + assignment.trial / 1000


def searched(url: str, search: dict[str, Any], *, decides: bool = True, first_rung: int = 250) -> list[Outcome]:
    """Search until the bad trial has ended."""
    evaluation = {"rungs": 8, "first_rung": first_rung}
    space = SPACE | {"epochs": {"value": 3}}
    config = study_at(url, search=search, budget={"trials": BAD + 1}, evaluation=evaluation, space=space)
    outcomes = []
    with led(config) as coordinator:
        while assignment := coordinator.next_assignment(f"r{len(outcomes)}", CPU):
            outcomes.append(train(coordinator, assignment, scores, decides=decides))
    return outcomes


@pytest.mark.parametrize("search", PRUNERS, ids=lambda search: search["pruner"])
@pytest.mark.parametrize("first_rung", [250, 375])
def test_a_clearly_bad_trial_is_pruned_at_the_first_rung(
    sqlite_url: str, search: dict[str, Any], first_rung: int
) -> None:
    outcomes = searched(sqlite_url, search, first_rung=first_rung)
    assert [outcome.trial for outcome in outcomes if outcome.ending is Ending.PRUNED] == [BAD]
    bad = plain_trials(sqlite_url)[BAD]
    assert (bad.state.name, bad.value, bad.last_step) == ("PRUNED", 0.1, first_rung)


@pytest.mark.parametrize("search", [*PRUNERS, {"pruner": "none"}], ids=lambda search: search["pruner"])
def test_nothing_is_pruned_where_no_rung_decides(sqlite_url: str, search: dict[str, Any]) -> None:
    outcomes = searched(sqlite_url, search, decides=search["pruner"] == "none")
    assert {outcome.ending for outcome in outcomes} == {Ending.COMPLETED}


@pytest.mark.parametrize("search", PRUNERS, ids=lambda search: search["pruner"])
def test_the_default_is_trained_to_its_end_both_times(sqlite_url: str, search: dict[str, Any]) -> None:
    """Its two scores are the noise floor; the second is worse than all that came before it."""
    config = study_at(sqlite_url, search=search, budget={"trials": 21, "patience": 5})
    with led(config) as coordinator:
        for number in range(21):
            assignment = coordinator.next_assignment(f"r{number}", CPU)
            assert assignment is not None
            train(
                coordinator,
                assignment,
                lambda assignment, _: 0.4 if assignment.trial == 20 else 0.5 + assignment.trial / 100,
            )
    assert [plain_trials(sqlite_url)[number].value for number in (0, 20)] == [0.5, 0.4]


def test_the_median_pruner_waits_for_its_start_up_trials(sqlite_url: str) -> None:
    outcomes = searched(sqlite_url, {"pruner": "median", "pruner_startup_trials": BAD + 1})
    assert {outcome.ending for outcome in outcomes} == {Ending.COMPLETED}
