"""A verb asks the database, and goes through in memory, as much in a long study as in a short one."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.messages import Ending
from hpo.search.coordinator import Coordinator
from hpo.store.trials import Trials
from tests.search.scripted import CPU, SPACE, ended, led, report_at, rising, search, study_at

BUDGET = {"trials": None, "time": "100h", "gpu_hours": 1000, "patience": 10_000}


Asked = Mapping[str, Counter[str]]
"""Verb -> the statements that it put to the database, and how often."""


def train_one(coordinator: Coordinator, name: str) -> Asked:
    """Train a trial as the dispatch does, and return what each verb asked of the database."""
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    verb, here = "", threading.get_ident()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if threading.get_ident() == here:  # The lease is renewed from a thread of its own.
            asked[verb][statement] += 1

    def call(method: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal verb
        verb = method.__name__
        return method(*arguments)

    engine = coordinator._store.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        assignment = call(coordinator.next_assignment, name, CPU)
        call(coordinator.expected_seconds, assignment)
        for milestone in assignment.milestones[-2:]:
            report = report_at(assignment, milestone, rising(assignment, milestone.rung))
            call(coordinator.observe, report)
        call(coordinator.finish, ended(assignment, Ending.COMPLETED, report))
        for read in (coordinator.files_needed, coordinator.stop_requests, coordinator.standing):
            call(read)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return asked


def train_several(coordinator: Coordinator, trials: int, name: str) -> None:
    for number in range(trials):
        train_one(coordinator, f"{name}-{number}")


def test_a_verb_asks_the_database_no_more_in_a_longer_study(sqlite_url: str) -> None:
    always = {name: parameter for name, parameter in SPACE.items() if name != "momentum"}
    with led(study_at(sqlite_url, budget=BUDGET, space=always, search={"pruner": "median"})) as coordinator:
        train_several(coordinator, 12, "first")
        early = train_one(coordinator, "early")
        train_several(coordinator, 40, "then")
        late = train_one(coordinator, "late")
    statements = {verb: sum(counted.values()) for verb, counted in late.items()}
    assert statements == {verb: sum(counted.values()) for verb, counted in early.items()}
    assert {"next_assignment", "observe", "finish", "files_needed", "stop_requests", "standing"} <= statements.keys()


def test_without_a_pruner_no_verb_goes_through_the_finished_trials(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with led(study_at(sqlite_url, budget=BUDGET)) as coordinator:
        train_several(coordinator, 12, "first")
        asked: list[tuple[TrialState, ...]] = []
        original = Trials.get_all

        def get_all(self: Trials, *states: TrialState) -> list[FrozenTrial]:
            asked.append(states)
            return original(self, *states)

        monkeypatch.setattr(Trials, "get_all", get_all)
        train_one(coordinator, "watched")
    assert asked
    assert all(states and not any(state.is_finished() for state in states) for states in asked)


@pytest.mark.slow
def test_a_leader_started_again_knows_what_the_one_before_it_knew(database_url: str) -> None:
    config = study_at(database_url, budget={"trials": 8})
    with led(config) as coordinator:
        search(coordinator)
        standing, files, winner = coordinator.standing(), coordinator.files_needed(), coordinator.winner()
        with coordinator._store.transaction():
            statistics, spent = coordinator._store.trials.statistics(), coordinator._store.attempts.device_seconds()
    with led(config) as coordinator:
        assert coordinator.standing() == standing
        assert coordinator.files_needed() == files
        assert coordinator.winner() == winner
        with coordinator._store.transaction():
            assert coordinator._store.trials.statistics() == statistics
            assert coordinator._store.attempts.device_seconds() == spent


def test_device_seconds_are_kept_as_they_would_be_counted_anew(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget=BUDGET)) as coordinator:
        store = coordinator._store
        for number, ending in enumerate((Ending.PAUSED, Ending.PAUSED, Ending.DIED, Ending.COMPLETED, Ending.PRUNED)):
            assignment = coordinator.next_assignment(f"r{number}", CPU)
            assert assignment is not None
            report = report_at(assignment, assignment.milestones[-1], 0.5)
            coordinator.observe(report)
            coordinator.finish(ended(assignment, ending, report))
            with store.transaction():
                kept = store.attempts.device_seconds()
            store.attempts.forget()
            with store.transaction():
                assert store.attempts.device_seconds() == kept > 0
