"""What goes wrong at night: deaths, failing devices, a store that is away. Nothing is lost, nothing counted twice."""

import logging
from collections.abc import Callable

import pytest
from optuna.trial import TrialState

from hpo.errors import StoreUnavailableError
from hpo.messages import Assignment, Capacity, Ending
from hpo.search.coordinator import Coordinator
from hpo.search.outcomes import MAX_DEATHS, deaths
from hpo.store.database import Database, retried_while_away
from hpo.store.trials import AttemptEnd
from tests.search.scripted import CPU, ended, led, plain_trials, report_at, rows, search, study_at, train

OTHER = Capacity(worker="scripted-1", device="cpu")


def asked(coordinator: Coordinator, name: str, capacity: Capacity = CPU) -> Assignment:
    assignment = coordinator.next_assignment(name, capacity)
    assert assignment is not None
    return assignment


def test_a_trial_whose_worker_dies_is_retried_and_fails_the_third_time(database_url: str) -> None:
    with led(study_at(database_url)) as coordinator:
        for attempt in range(1, MAX_DEATHS + 1):
            deadly = asked(coordinator, f"request {attempt}")
            assert (deadly.trial, deadly.attempt) == (0, attempt)
            coordinator.finish(ended(deadly, Ending.DIED, reason="Killed by signal 9."))
        assert asked(coordinator, "next").trial == 1
    failed = plain_trials(database_url)[0]
    reason = "Killed by signal 9. It was so in 3 attempts."
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, reason)
    endings = rows(database_url, "SELECT ending FROM hpo_attempts WHERE trial = 0")
    assert endings == [("died",)] * MAX_DEATHS


def test_deaths_of_a_trial_that_comes_further_each_time_do_not_count(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        for attempt, milestone in enumerate(asked(coordinator, "first").milestones[:3], start=1):
            again = asked(coordinator, "first" if attempt == 1 else f"request {attempt}")
            coordinator.observe(report_at(again, milestone, 0.5))
            coordinator.finish(ended(again, Ending.DIED))
        assert asked(coordinator, "next").trial == 0


@pytest.mark.parametrize(
    ("seen", "count"),
    [([0, 0, 0], 3), ([5, 5, 5], 3), ([0, 5, 5], 2), ([5, 0, 6], 1), ([0, 0, 7, 0], 2)],
)
def test_deaths_are_counted_since_the_trial_last_came_further(seen: list[int], count: int) -> None:
    ends = [
        AttemptEnd(attempt=number, worker="w", ending="died", seen=examples)
        for number, examples in enumerate(seen, start=1)
    ]
    assert deaths(ends, Ending.DIED) == count
    assert deaths(ends, None) == 0


def test_a_death_told_twice_is_one(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        deadly = asked(coordinator, "first")
        for _ in range(5):
            coordinator.finish(ended(deadly, Ending.DIED))
        assert asked(coordinator, "second").attempt == 2


def test_a_failed_trial_is_tried_on_another_worker_and_fails_where_it_fails_there_too(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        coordinator.faults.workers = (CPU.worker, OTHER.worker)
        first = asked(coordinator, "a")
        coordinator.finish(ended(first, Ending.FAILED, reason="RuntimeError: broken"))
        assert plain_trials(sqlite_url)[0].state == TrialState.WAITING
        assert asked(coordinator, "b").trial == 1  # not again on the worker on which it failed
        again = asked(coordinator, "c", OTHER)
        assert (again.trial, again.attempt) == (0, 2)
        coordinator.finish(ended(again, Ending.FAILED, reason="RuntimeError: broken"))
    assert plain_trials(sqlite_url)[0].state == TrialState.FAIL


def test_a_worker_on_which_two_trials_fail_is_left_out_and_they_go_on_elsewhere(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        coordinator.faults.workers = (CPU.worker, OTHER.worker)
        for name in "ab":
            coordinator.finish(ended(asked(coordinator, name), Ending.FAILED, reason=f"CUDA error: {name}"))
        assert coordinator.next_assignment("c", CPU) is None  # held back, until another is known to do well
        assert not coordinator.faults.quarantined
        for number in range(4):
            train(coordinator, asked(coordinator, f"other {number}", OTHER))
            assert list(coordinator.faults.quarantined) == [CPU.worker]
        assert coordinator.faults.abort_reason() is None
    assert {trial.state for trial in plain_trials(sqlite_url)} == {TrialState.COMPLETE}
    assert rows(sqlite_url, "SELECT count(*) FROM hpo_events WHERE kind = 'quarantined'") == [(1,)]


def test_a_worker_that_cannot_start_is_recorded_once_and_gets_nothing(sqlite_url: str) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        coordinator.faults.workers = (CPU.worker, OTHER.worker)
        for _ in range(2):
            coordinator.quarantine(OTHER.worker, "No memory.")
        assert coordinator.next_assignment("a", OTHER) is None
    found = rows(sqlite_url, "SELECT detail FROM hpo_events WHERE kind = 'quarantined'")
    assert found == [('{"worker": "scripted-1", "reason": "No memory."}',)]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the next so many transactions fail as when the server is gone, every other one after its commit."""
    left = 0
    original = Database.transaction

    def transaction(self: Database):
        from contextlib import contextmanager

        @contextmanager
        def failing():
            nonlocal left
            if left == 0:
                with original(self) as connection:
                    yield connection
                return
            left -= 1
            if left % 2:
                with original(self) as connection:
                    yield connection
            raise StoreUnavailableError("The store failed: the connection was lost.")

        return failing()

    monkeypatch.setattr(Database, "transaction", transaction)
    monkeypatch.setattr("hpo.store.database.FIRST_WAIT", 0.001)

    def begin(transactions: int) -> None:
        nonlocal left
        left = transactions

    return begin


def test_verbs_are_asked_again_until_the_store_answers_and_do_nothing_twice(
    sqlite_url: str, outage: Callable[[int], None]
) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        for number in range(4):
            outage(3)
            assignment = asked(coordinator, f"request {number}")
            for milestone in assignment.milestones:
                outage(2)
                coordinator.observe(report_at(assignment, milestone, 0.1 * number))
            outage(3)
            best = report_at(assignment, assignment.milestones[-1], 0.1 * number)
            coordinator.finish(ended(assignment, Ending.COMPLETED, best))
        assert coordinator.next_assignment("one more", CPU) is None
    trials = plain_trials(sqlite_url)
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert rows(sqlite_url, "SELECT count(*) FROM hpo_attempts") == [(4,)]
    assert rows(sqlite_url, "SELECT count(*) FROM hpo_events WHERE kind = 'completed'") == [(4,)]


def test_what_does_not_answer_for_too_long_is_told(caplog: pytest.LogCaptureFixture) -> None:
    times = [0.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        times[0] += seconds

    def gone() -> None:
        raise StoreUnavailableError("The store failed: gone.")

    with pytest.raises(StoreUnavailableError, match="gone"), caplog.at_level(logging.WARNING):
        retried_while_away(gone, 60.0, sleep=sleep, clock=lambda: times[0])
    assert 50 < sum(waits) <= 60
    assert max(waits) == 5.0
    assert caplog.messages == ["The store failed: gone. It is asked again until it answers; what is training goes on."]


def test_once_it_answers_that_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    left = 8

    def back_soon() -> str:
        nonlocal left
        left -= 1
        if left:
            raise StoreUnavailableError("The store failed: gone.")
        return "answer"

    with caplog.at_level(logging.WARNING):
        assert retried_while_away(back_soon, 60.0, sleep=lambda _: None, clock=lambda: 0.0) == "answer"
    assert caplog.messages[-1] == "The store answers again; the search goes on."


def test_the_rows_that_fit_at_once_are_remembered_for_the_next_trial_and_the_next_run(sqlite_url: str) -> None:
    from dataclasses import replace

    config = study_at(sqlite_url)
    with led(config) as coordinator:
        first = asked(coordinator, "a")
        assert first.micro_batch_size is None
        best = report_at(first, first.milestones[-1], 0.5)
        coordinator.finish(replace(ended(first, Ending.COMPLETED, best), micro_batch_size=4))
        assert asked(coordinator, "b").micro_batch_size == 4
    with led(config) as coordinator:
        assert {asked(coordinator, name).micro_batch_size for name in "cd"} == {4}
        search(coordinator)


@pytest.mark.parametrize(("keep", "expected"), [(None, [None, 0.3, 0.3, 0.6]), (2, [None, None, 0.2, 0.3])])
def test_weights_are_kept_of_what_beats_the_last_of_the_best(
    sqlite_url: str, keep: int | None, expected: list[float | None]
) -> None:
    with led(study_at(sqlite_url, store={"url": sqlite_url, "keep_weights": keep})) as coordinator:
        to_beat = []
        for number, score in enumerate((0.3, 0.2, 0.6, 0.1)):
            assignment = asked(coordinator, f"request {number}")
            to_beat.append(assignment.score_to_beat)
            train(coordinator, assignment, lambda *_, score=score: score)
        assert to_beat == expected
        unfinished, best = coordinator.files_needed()
        assert (unfinished, best) == (set(), {2} if keep is None else {0, 2})
