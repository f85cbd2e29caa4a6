"""The verbs asked twice answer the same and write once; messages of an older attempt write nothing."""

import threading
from dataclasses import replace

from optuna.trial import TrialState

from hpo.messages import Action, Assignment, Ending
from hpo.search.coordinator import Coordinator
from tests.search.scripted import CPU, ended, everything, led, plain_study, report_at, rows, search, study_at

LEASE = "hpo_leases"


def without_lease(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows but the lease, which every verb renews."""
    return {table: content for table, content in everything(url).items() if table != LEASE}


def begun(coordinator: Coordinator, request: str = "r") -> Assignment:
    assignment = coordinator.next_assignment(request, CPU)
    assert assignment is not None
    return assignment


def test_the_same_request_gives_the_same_assignment_and_one_row(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        first = begun(coordinator, "same")
        before = without_lease(database_url)
        assert begun(coordinator, "same") == first
        assert without_lease(database_url) == before
        assert begun(coordinator, "other").trial == 1


def test_a_request_is_answered_the_same_when_its_trial_has_ended_and_the_budget_is_spent(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 1})) as coordinator:
        first = begun(coordinator)
        report = report_at(first, first.milestones[-1], 0.5)
        coordinator.observe(report)
        coordinator.finish(ended(first, Ending.COMPLETED, report))
        assert coordinator.next_assignment("another", CPU) is None
        assert begun(coordinator) == first


def test_a_report_told_twice_is_answered_the_same_and_stored_once(database_url: str) -> None:
    """Also where the second would be answered otherwise: the first answer may have reached the worker."""
    pruned = study_at(database_url, search={"pruner": "median", "pruner_startup_trials": 1}, budget={"trials": 3})
    with led(pruned) as coordinator:
        coordinator_finishes(coordinator, 0.9)
        bad = begun(coordinator, "bad")
        milestone = next(milestone for milestone in bad.milestones if milestone.rung == 250)
        stop = coordinator.observe(report_at(bad, milestone, 0.1))
        assert stop.action is Action.STOP
        before = without_lease(database_url)
        assert coordinator.observe(report_at(bad, milestone, 0.99)) == stop
        assert without_lease(database_url) == before
    assert rows(database_url, "SELECT score FROM hpo_evaluations WHERE trial = 1") == [(0.1,)]


def coordinator_finishes(coordinator: Coordinator, score: float) -> None:
    """Train a whole trial that scores the same at every milestone."""
    assignment = begun(coordinator, f"of {score}")
    reports = [report_at(assignment, milestone, score) for milestone in assignment.milestones]
    for report in reports:
        coordinator.observe(report)
    coordinator.finish(ended(assignment, Ending.COMPLETED, reports[-1]))


def test_an_end_told_twice_is_stored_once_and_the_first_counts(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        assignment = begun(coordinator)
        report = report_at(assignment, assignment.milestones[-1], 0.5)
        coordinator.observe(report)
        coordinator.finish(ended(assignment, Ending.COMPLETED, report))
        before = without_lease(database_url)
        coordinator.finish(ended(assignment, Ending.COMPLETED, report))
        coordinator.finish(ended(assignment, Ending.FAILED, reason="said later"))
        late = coordinator.observe(report_at(assignment, assignment.milestones[0], 0.7))
        assert late.action is Action.STOP
        assert without_lease(database_url) == before


def test_messages_of_an_older_attempt_are_dropped(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        old = begun(coordinator, "old")
        coordinator.finish(ended(old, Ending.PAUSED))
        before = without_lease(database_url)
        assert coordinator.observe(report_at(old, old.milestones[0], 0.7)).action is Action.STOP
        coordinator.finish(ended(old, Ending.FAILED))
        assert without_lease(database_url) == before

        new = begun(coordinator, "new")
        assert (new.trial, new.attempt) == (old.trial, 2)
        before = without_lease(database_url)
        assert coordinator.observe(report_at(old, old.milestones[0], 0.7)).action is Action.STOP
        coordinator.finish(ended(old, Ending.FAILED))
        assert without_lease(database_url) == before


def test_messages_of_an_attempt_that_a_dead_leader_left_are_dropped(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        left = begun(coordinator)
    with led(study_at(sqlite_url)) as coordinator:
        before = without_lease(sqlite_url)
        report = report_at(left, left.milestones[-1], 0.9)
        assert coordinator.observe(report).action is Action.STOP
        coordinator.finish(ended(left, Ending.COMPLETED, report))
        coordinator.finish(ended(replace(left, trial=99), Ending.FAILED))
        assert without_lease(sqlite_url) == before
        again = begun(coordinator, "again")
        assert again.attempt == 2
        before = without_lease(sqlite_url)
        assert coordinator.observe(report).action is Action.STOP
        coordinator.finish(ended(left, Ending.COMPLETED, report))
        assert without_lease(sqlite_url) == before
        assert coordinator.observe(report_at(again, again.milestones[0], 0.9)).action is Action.CONTINUE


def test_what_somebody_ended_with_optunas_own_tools_stays_as_they_said(database_url: str) -> None:
    """Optuna's dashboard can fail a running trial: its worker is then told to stop, and nothing raises."""
    with led(study_at(database_url)) as coordinator:
        assignment = begun(coordinator)
        with plain_study(database_url) as study:
            study.tell(assignment.trial, state=TrialState.FAIL)
        before = without_lease(database_url)
        report = report_at(assignment, assignment.milestones[0], 0.5)
        assert coordinator.observe(report).action is Action.STOP
        coordinator.finish(ended(assignment, Ending.COMPLETED, report))
        assert without_lease(database_url) == before
        assert begun(coordinator, "next").trial == 1


def test_claims_never_exceed_the_budget_whoever_asks_and_how_often(database_url: str) -> None:
    with led(study_at(database_url, budget={"trials": 5})) as coordinator:
        claimed: list[int] = []

        def ask(worker: int) -> None:
            for number in range(4):
                assignment = coordinator.next_assignment(f"{worker}-{number}", CPU)
                claimed.extend([assignment.trial] if assignment else [])

        threads = [threading.Thread(target=ask, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claimed) == [0, 1, 2, 3, 4]
        assert search(coordinator) == []
    assert len(rows(database_url, "SELECT 1 FROM trials")) == 5
