"""A transaction that did all its work and was then lost: asked again, the verb writes and says what it had."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from optuna.trial import TrialState
from sqlalchemy.engine import Connection

from hpo.errors import StoreUnavailableError
from hpo.messages import Assignment, Capacity, Ending
from hpo.search.coordinator import Coordinator
from hpo.search.steering import StopRequests
from hpo.store.database import Database
from tests.search.scripted import CPU, SPACE, ended, led, plain_trials, rows, study_at, train, written

START = 1_800_000_000.0
OTHER = Capacity(worker="scripted-1", device="cpu")
Losing = Callable[[], None]


@pytest.fixture
def lose_next(monkeypatch: pytest.MonkeyPatch) -> Losing:
    """Let the next transaction run to its end and be rolled back there, as where a commit fails on a full disk."""
    left = 0
    original = Database.transaction

    @contextmanager
    def transaction(self: Database) -> Iterator[Connection]:
        nonlocal left
        with original(self) as connection:
            yield connection
            if left:
                left -= 1
                raise StoreUnavailableError("The store failed: database or disk is full.")

    monkeypatch.setattr(Database, "transaction", transaction)
    monkeypatch.setattr("hpo.store.database.FIRST_WAIT", 0.001)

    def lose() -> None:
        nonlocal left
        left = 1

    return lose


def asked(coordinator: Coordinator, name: str, capacity: Capacity = CPU) -> Assignment:
    assignment = coordinator.next_assignment(name, capacity)
    assert assignment is not None
    return assignment


def events(url: str, kind: str) -> int:
    [(count,)] = rows(url, f"SELECT count(*) FROM hpo_events WHERE kind = '{kind}'")
    return int(count)


def test_what_was_asked_from_outside_is_heard_all_the_same(sqlite_url: str, lose_next: Losing) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        written(
            sqlite_url,
            "INSERT INTO hpo_events (study_id, happened_at, kind, detail) "
            "SELECT study_id, 0, 'stop_asked', '{}' FROM hpo_studies",
        )
        lose_next()
        assert coordinator.stop_requests() == StopRequests(stop=True, trials=frozenset())


def test_a_worker_left_out_is_logged_once(sqlite_url: str, lose_next: Losing) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        coordinator.faults.workers = (CPU.worker, OTHER.worker, "scripted-2")
        lose_next()
        coordinator.quarantine(OTHER.worker, "No memory.")
        assert events(sqlite_url, "quarantined") == 1
        for name in "ab":
            failing = asked(coordinator, name)
            lose_next()
            coordinator.finish(ended(failing, Ending.FAILED, reason=f"CUDA error: {name}"))
        well = asked(coordinator, "well", Capacity(worker="scripted-2", device="cpu"))
        lose_next()
        train(coordinator, well)
    assert events(sqlite_url, "quarantined") == 2


def test_a_proposal_that_never_was_is_forgotten(sqlite_url: str) -> None:
    """Asked again it is new: that it waits for want of time is in the log, and another of its number could be it."""
    now = [START]
    config = study_at(
        sqlite_url,
        budget={"trials": None, "time": "1m"},
        space=SPACE | {"epochs": {"values": [3, 1]}},
        search={"repeat_default": False},
    )
    with led(config, clock=lambda: now[0]) as coordinator:
        train(coordinator, asked(coordinator, "default"))
        now[0] += 60 - 5  # one epoch of three fits, three do not

        def breaks(*_: object, **__: object) -> None:
            raise RuntimeError

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(coordinator._store.attempts, "begin", breaks)
            with pytest.raises(RuntimeError):
                coordinator.next_assignment("lost", CPU)
        assert events(sqlite_url, "too_long") == 0
        begun = asked(coordinator, "again").trial
        assert events(sqlite_url, "too_long") == begun - 1 > 0
    states = [trial.state for trial in plain_trials(sqlite_url)]
    assert states == [TrialState.COMPLETE, *[TrialState.WAITING] * (begun - 1), TrialState.RUNNING]


def test_begin_asked_again_takes_a_dead_leaders_trial_up_once(sqlite_url: str, lose_next: Losing) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        assert asked(coordinator, "left").trial == 0
    with led(study_at(sqlite_url)) as coordinator:
        lose_next()
        coordinator.begin(metric="macro_f1", versions={})
        again = asked(coordinator, "again")
        assert (again.trial, again.attempt) == (0, 2)
        lose_next()
        coordinator.finish(ended(again, Ending.DIED))
    assert events(sqlite_url, "requeued") == 2
    assert plain_trials(sqlite_url)[0].state == TrialState.WAITING
