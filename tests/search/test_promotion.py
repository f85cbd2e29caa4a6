"""The pruner `promotion` where something else happens too: lost checkpoints, failures, deadlines, patience, audits."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hpo.messages import Action, Assignment, Ending
from hpo.search.coordinator import Coordinator
from hpo.search.pruners import LAST_RUNG, partial_rungs
from tests.search.conftest import Clock, asked, probed
from tests.search.scripted import CPU, SPACE, ended, led, plain_trials, report_at, study_at

Scores = Callable[[Assignment], float]


def spread(assignment: Assignment) -> float:
    """Score each trial otherwise, in no order."""
    return 0.3 + assignment.trial * 37 % 100 / 200


def searched(
    coordinator: Coordinator,
    scores: Scores = spread,
    *,
    keeps_checkpoints: bool = True,
    fails: frozenset[int] = frozenset(),
    most: int = 100,
) -> list[tuple[int, Ending]]:
    """Train until there is no more, at most so many attempts; return (trial, how it ended)."""
    endings: list[tuple[int, Ending]] = []
    reached: dict[int, int] = {}
    while len(endings) < most and (one := coordinator.next_assignment(f"request-{len(endings)}", CPU)):
        ending, report = Ending.FAILED if one.trial in fails else Ending.COMPLETED, None
        left = [point for point in one.milestones if point.rung > reached.get(one.trial, 0)]
        for milestone in left if ending is Ending.COMPLETED else ():
            if keeps_checkpoints:
                reached[one.trial] = milestone.rung
            report = report_at(one, milestone, scores(one), decides=milestone.rung < one.milestones[-1].rung)
            if (action := coordinator.observe(report).action) is not Action.CONTINUE:
                ending, report = Ending.PAUSED if action is Action.PAUSE else Ending.PRUNED, None
                break
        coordinator.finish(ended(one, ending, report))
        endings.append((one.trial, ending))
    return endings


def promotion_study(url: str, **sections: Any) -> Any:
    sections.setdefault("space", SPACE | {"epochs": {"value": 3}})
    evaluation = {"full_reports": 1} | sections.pop("evaluation", {})
    return study_at(url, search={"pruner": "promotion"}, evaluation=evaluation, **sections)


def test_a_trial_resumed_without_its_checkpoint_is_not_paused_again_where_it_was(sqlite_url: str) -> None:
    with led(promotion_study(sqlite_url, budget={"trials": 8})) as coordinator:
        endings = searched(coordinator, keeps_checkpoints=False)
    assert len(endings) < 30
    assert (0, Ending.COMPLETED) in endings


def test_where_patience_ends_a_search_the_best_that_is_paused_is_trained_to_its_end(sqlite_url: str) -> None:
    budget = {"trials": 60, "patience": 4}
    with led(promotion_study(sqlite_url, budget=budget, evaluation={"first_rung": 62})) as coordinator:
        endings = searched(coordinator, lambda one: 0.9 - one.trial / 100)
        assert (coordinator.ended_because or "").startswith("The last 4 trials brought no improvement")
    assert (0, Ending.COMPLETED) in endings


def test_where_patience_ends_a_search_with_a_deadline_only_the_best_paused_trials_are_resumed(
    sqlite_url: str, clock: Clock
) -> None:
    budget = {"trials": None, "time": "8h", "patience": 4}
    config = promotion_study(sqlite_url, budget=budget, evaluation={"first_rung": 62}, confirmation={"finalists": 1})
    with led(config, clock=clock) as coordinator:
        endings = searched(coordinator, lambda one: 0.9 - one.trial / 100)
        paused = {trial for trial, ending in endings if ending is Ending.PAUSED}
        completed = {trial for trial, ending in endings if ending is Ending.COMPLETED}
    assert {0, 1} <= completed
    assert len(paused - completed) > 2
    assert len(completed) < len(paused) / 2


def test_failures_between_which_trials_were_paused_at_rungs_are_not_in_a_row(sqlite_url: str) -> None:
    with led(promotion_study(sqlite_url, budget={"trials": 12})) as coordinator:
        coordinator.faults.workers = (CPU.worker,)
        endings = searched(coordinator, lambda one: 0.9 - one.trial / 100, fails=frozenset({2, 4, 6}))
        assert [ending for _, ending in endings].count(Ending.FAILED) == 3
        assert coordinator.faults.abort_reason() is None


def test_what_was_begun_outlives_a_deadline_by_which_none_completed(sqlite_url: str, clock: Clock) -> None:
    """Neither is it pruned, nor is another trial begun that would not end in time either."""
    config = promotion_study(sqlite_url, budget={"trials": None, "time": "1m"})
    # On the second night it is known that no other trial fits.
    for night, (rung, action) in enumerate(((0, Action.PAUSE), (1, Action.CONTINUE))):
        with led(config, clock=clock) as coordinator:
            coordinator.expect(probed(3000.0), reserve=0.0)
            one = asked(coordinator, f"night {night}")
            assert (one.trial, one.attempt) == (0, 2 * night + 1)
            report = replace(report_at(one, one.milestones[rung], 0.5), seconds=300.0 * (rung + 1))
            assert coordinator.observe(report).action is action
            coordinator.finish(ended(one, Ending.PAUSED))
            again = asked(coordinator, f"again in night {night}")
            assert (again.trial, again.attempt) == (0, 2 * night + 2)
            coordinator.finish(ended(again, Ending.PAUSED))
            coordinator.prune_held_back()
            coordinator.end("its time was over")
        assert plain_trials(sqlite_url)[0].state.name == "WAITING"
        clock.now += 60


def test_the_only_trial_for_which_there_is_time_continues_and_is_warned_of_once(sqlite_url: str, clock: Clock) -> None:
    """It waits at its first rung for the second trial, which turns out to be too long; then it continues."""
    with led(promotion_study(sqlite_url, budget={"trials": 2, "time": "1m"}), clock=clock) as coordinator:
        coordinator.expect(probed(3000.0), reserve=0.0)
        first = asked(coordinator, "first")
        assert coordinator.observe(report_at(first, first.milestones[0], 0.5)).action is Action.PAUSE
        coordinator.finish(ended(first, Ending.PAUSED))
        again = asked(coordinator, "again")
        assert (again.trial, again.attempt) == (0, 2)
        later = again.milestones[1:-1]
        assert later
        assert {coordinator.observe(report_at(again, one, 0.5)).action for one in later} == {Action.CONTINUE}
        assert len(coordinator.overtime.pop_notes()) == 1


def test_a_trial_is_paused_if_a_better_one_waits_for_the_worker(sqlite_url: str) -> None:
    with led(promotion_study(sqlite_url, budget={"trials": 3})) as coordinator:
        first = asked(coordinator, "first")
        assert coordinator.observe(report_at(first, first.milestones[0], 0.6)).action is Action.PAUSE
        coordinator.finish(ended(first, Ending.PAUSED))
        second, _third = asked(coordinator, "second"), asked(coordinator, "third")
        assert coordinator.observe(report_at(second, second.milestones[0], 0.5)).action is Action.PAUSE
        coordinator.finish(ended(second, Ending.PAUSED))
        assert asked(coordinator, "then").trial == first.trial


def test_trials_that_are_pruned_while_they_wait_are_told_once(sqlite_url: str) -> None:
    with led(promotion_study(sqlite_url, budget={"trials": 14})) as coordinator:
        endings = searched(coordinator, lambda one: one.trial / 100)
        coordinator.prune_held_back()
        told = coordinator.endings.pop_pruned()
        assert len(told) == len(set(told)) > 0
        assert coordinator.endings.pop_pruned() == ()
        over = [trial for trial, ending in endings if ending is not Ending.PAUSED]
        assert sorted([*told, *over]) == list(range(14))
        assert coordinator.standing().paused == 0


def test_an_audited_trial_is_trained_to_its_end(sqlite_url: str) -> None:
    """Each is worse than all before; from the tenth on they are too far below to be paused at the first rung."""
    confirmation = {"finalists": 0, "audit": 1.0}
    with led(promotion_study(sqlite_url, budget={"trials": 14}, confirmation=confirmation)) as coordinator:
        endings = searched(coordinator, lambda one: 0.9 - one.trial / 100)
    assert {(trial, Ending.COMPLETED) for trial in range(10, 14)} <= set(endings)


@pytest.mark.parametrize("first_rung", [None, 1, 125, 900])
def test_rungs_are_at_the_same_shares_of_each_trial_none_near_its_end(first_rung: int | None) -> None:
    config = study_at("sqlite:///none.db", search={"pruner": "promotion"}, evaluation={"first_rung": first_rung})
    longest = partial_rungs(config, 100, 100)
    assert max(longest, default=0) < 0.9 * LAST_RUNG
    for passes in (1, 7, 50):
        assert partial_rungs(config, passes, 100) == tuple(max(1, round(rung * passes / 100)) for rung in longest)
