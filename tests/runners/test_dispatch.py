"""The dispatch over replayed searches: it keeps workers busy, and loses no trial whatever happens to workers."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.config.study_file import ComputeConfig
from hpo.errors import TrainingError
from hpo.files.remote import RemoteFiles
from hpo.messages import Assignment, Capacity, Ending, Outcome, Progress
from hpo.runners.callbacks import SearchCallback
from hpo.runners.dispatch import Dispatch
from hpo.runners.replay.generated_curves import GeneratedCurves
from hpo.runners.replay.worker_pool import SIMULATION_START, VirtualClock
from hpo.runners.run import is_ending
from hpo.runners.worker_pool import LossCause, WorkerLost, WorkerMessage
from hpo.search.coordinator import Coordinator
from tests.runners.faulty_replay import FaultKind, FaultyWorkerPool, ReplayFault, ReplayFaults
from tests.search.scripted import led, plain_trials, rows, study_at, written

HOUR = 3600.0


class Seen(SearchCallback):
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.begun: list[Assignment] = []
        self.out: dict[str, str] = {}

    def assigned(self, assignment: Assignment) -> None:
        self.begun.append(assignment)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def left_out(self, worker: str, reason: str) -> None:
        assert worker not in self.out, "told once"
        self.out[worker] = reason

    def endings(self, ending: Ending) -> list[int]:
        return [outcome.trial for outcome in self.outcomes if outcome.ending is ending]


class ReplayedRun:
    """One run over a virtual clock."""

    def __init__(self, coordinator: Coordinator, clock: VirtualClock, workers: int, **options: Any) -> None:
        self.coordinator, self.clock, self.seen, self.stop = coordinator, clock, Seen(), Event()
        self.pool = FaultyWorkerPool(workers, GeneratedCurves(3), clock, metric="macro_f1", **options)

    def run(self, compute: ComputeConfig | None = None, **files: Any) -> None:
        Dispatch(
            self.coordinator, self.pool, self.seen, self.stop, compute=compute, clock=self.clock, ticks=self.clock,
            listens_seconds=60.0, steers_every=300.0, **files,
        ).run()  # fmt: skip

    @property
    def seconds(self) -> float:
        return self.clock() - SIMULATION_START


@contextmanager
def replayed(
    url: str,
    *,
    workers: int = 2,
    faults: ReplayFaults | None = None,
    clock: VirtualClock | None = None,
    prefetch: int = 1,
    **sections: Any,
) -> Iterator[ReplayedRun]:
    clock = clock or VirtualClock()
    with led(study_at(url, **sections), clock=clock) as coordinator:
        yield ReplayedRun(coordinator, clock, workers, faults=faults, prefetch=prefetch)


def states(url: str) -> list[TrialState]:
    return [trial.state for trial in plain_trials(url)]


def test_every_trial_is_trained_once_on_several_workers(sqlite_url: str) -> None:
    with replayed(sqlite_url, workers=3, budget={"trials": 10}) as one:
        one.run()
    assert states(sqlite_url) == [TrialState.COMPLETE] * 10
    assert sorted(one.seen.endings(Ending.COMPLETED)) == list(range(10))
    assert one.pool.trained_seconds > 0.6 * 3 * one.seconds


def test_the_next_trial_is_requested_late_but_in_time(sqlite_url: str) -> None:
    """Each trial begins when the last one ends, and is requested only after the one before that has completed."""
    with replayed(sqlite_url, workers=1, budget={"trials": 6}) as one:
        one.run()
    assert one.pool.trained_seconds == pytest.approx(one.seconds)
    begun = rows(
        sqlite_url, "SELECT trial, kind FROM hpo_events WHERE kind IN ('begun', 'completed') ORDER BY event_id"
    )
    for trial in range(2, 6):
        assert begun.index((trial, "begun")) > begun.index((trial - 2, "completed"))


def test_the_expected_end_of_a_trial_follows_the_forecast_and_not_the_speed_that_a_worker_reports(
    sqlite_url: str,
) -> None:
    """A worker's examples per second do not contain evaluations; here they are far too high."""

    class Hasty(FaultyWorkerPool):
        def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
            return [
                (name, replace(said, examples_per_second=1e12) if isinstance(said, Progress) else said)
                for name, said in super().listen(seconds)
            ]

    with replayed(sqlite_url, workers=1, budget={"trials": 6}) as one:
        one.pool = Hasty(1, GeneratedCurves(3), one.clock, metric="macro_f1", progress_every=30.0)
        ask, asked, ended = one.coordinator.next_assignment, dict[int, float](), dict[int, float]()

        def noted(request: str, capacity: Capacity, *, starts_in: float = 0.0) -> Assignment | None:
            assignment = ask(request, capacity, starts_in=starts_in)
            if assignment is not None:
                asked[assignment.trial] = one.clock()
            return assignment

        one.coordinator.next_assignment = noted  # type: ignore[method-assign]
        one.seen.ended = lambda outcome: ended.setdefault(outcome.trial, one.clock())  # type: ignore[method-assign]
        one.run()
    waits = [ended[trial - 1] - asked[trial] for trial in range(1, 6)]
    assert max(waits) < 120, "requested shortly before the end of the previous trial"


def test_one_idle_worker_without_an_assignment_asks_for_all(sqlite_url: str) -> None:
    with replayed(sqlite_url, workers=8, budget={"trials": 16}) as one:
        ask, empty = one.coordinator.next_assignment, []

        def counted(request: str, capacity: Capacity, *, starts_in: float = 0.0) -> Assignment | None:
            assignment = ask(request, capacity, starts_in=starts_in)
            if assignment is None:
                empty.append(capacity.worker)
            return assignment

        one.coordinator.next_assignment = counted  # type: ignore[method-assign]
        one.run()
    assert states(sqlite_url) == [TrialState.COMPLETE] * 16
    assert len(empty) <= 16, "at most once after each end, when there may be an assignment again"


def test_trials_paused_at_the_deadline_resume_first(sqlite_url: str) -> None:
    budget = {"trials": None, "time": "40m"}
    with replayed(sqlite_url, workers=4, budget=budget) as one:
        one.run()
        assert one.seconds <= 2 * HOUR / 3
        assert one.coordinator.ended_because or one.seen.endings(Ending.PAUSED)
    paused = sorted(set(one.seen.endings(Ending.PAUSED)))
    assert TrialState.RUNNING not in states(sqlite_url)
    with replayed(sqlite_url, workers=4, budget=budget, clock=VirtualClock(SIMULATION_START + 24 * HOUR)) as another:
        another.run()
    assert sorted(assignment.trial for assignment in another.seen.begun[: len(paused)]) == paused


def test_the_stop_event_pauses_trials_and_no_other_begins(sqlite_url: str) -> None:
    class Stopping(Seen):
        def ended(self, outcome: Outcome) -> None:
            super().ended(outcome)
            one.stop.set()

    with replayed(sqlite_url, workers=3, budget={"trials": 20}) as one:
        one.seen = Stopping()
        one.run()
    found = states(sqlite_url)
    # A second trial may have ended at the same moment.
    assert 1 <= found.count(TrialState.COMPLETE) <= 2
    assert found.count(TrialState.WAITING) == len(found) - found.count(TrialState.COMPLETE)
    assert len(found) < 10


def test_a_worker_killed_after_the_grace_period_costs_no_trial_and_no_worker(sqlite_url: str) -> None:
    """Four runs in a row, which is more than the number of times that a trial may die."""
    for number in range(4):
        clock = VirtualClock(SIMULATION_START + 24 * HOUR * number)
        with replayed(sqlite_url, workers=2, clock=clock, budget={"trials": None, "time": "10s"}) as one:
            one.pool.apply = lambda worker, decision: None  # type: ignore[method-assign]
            one.run(ComputeConfig(grace_seconds=1))
            assert one.seen.endings(Ending.DIED) == []
            assert sorted(one.seen.endings(Ending.PAUSED)) == [0, 1]
            assert one.coordinator.faults.quarantined == {}
    assert states(sqlite_url) == [TrialState.WAITING] * 2


def test_stop_requests_in_the_store_prune_a_trial_or_end_the_search(sqlite_url: str) -> None:
    class Asking(Seen):
        def assigned(self, assignment: Assignment) -> None:
            super().assigned(assignment)
            if assignment.trial in (2, 5):
                asked = "2" if assignment.trial == 2 else "NULL"
                written(
                    sqlite_url,
                    "INSERT INTO hpo_events (study_id, happened_at, kind, trial, detail) "
                    f"SELECT study_id, 0, 'stop_asked', {asked}, '{{}}' FROM hpo_studies",
                )

    with replayed(sqlite_url, budget={"trials": 30}) as one:
        one.seen = Asking()
        one.run()
        assert one.stop.is_set()
    found = states(sqlite_url)
    assert found[2] == TrialState.PRUNED
    assert TrialState.RUNNING not in found
    assert len(found) < 12


@pytest.mark.parametrize("how", ["signal", "deadline", "outside"])
def test_the_search_ends_even_if_its_first_worker_is_not_open(how: str, sqlite_url: str) -> None:
    clock, stop = VirtualClock(time.time()), Event()
    with led(study_at(sqlite_url, budget={"time": "1h"}), clock=clock) as coordinator:
        assert not is_ending(coordinator, stop)
        match how:
            case "signal":
                stop.set()
            case "deadline":
                coordinator.limits = replace(coordinator.limits, deadline=time.time())
            case "outside":
                written(
                    sqlite_url,
                    "INSERT INTO hpo_events (study_id, happened_at, kind, detail) "
                    "SELECT study_id, 0, 'stop_asked', '{}' FROM hpo_studies",
                )
        assert is_ending(coordinator, stop)


def test_deaths_of_workers_cost_no_trial(sqlite_url: str) -> None:
    faults = ReplayFaults(rates={FaultKind.DIE: 0.4}, seed=5)
    with replayed(sqlite_url, workers=3, faults=faults, budget={"trials": 15}) as one:
        one.run()
    assert len(one.seen.endings(Ending.DIED)) > 2
    assert states(sqlite_url) == [TrialState.COMPLETE] * 15
    assert rows(sqlite_url, "SELECT count(*) FROM hpo_events WHERE kind = 'completed'") == [(15,)]


def test_a_hanging_worker_is_killed_and_its_trial_resumes(sqlite_url: str) -> None:
    faults = ReplayFaults(script=(ReplayFault(kind=FaultKind.HANG, trial=1, attempt=1),))
    with replayed(sqlite_url, faults=faults, budget={"trials": 6}) as one:
        one.run(ComputeConfig(hang_minutes=45))
    assert one.seen.endings(Ending.DIED) == [1]
    [lost] = [outcome for outcome in one.seen.outcomes if outcome.ending is Ending.DIED]
    assert lost.reason == "It sent no message for 45 minutes."
    assert states(sqlite_url) == [TrialState.COMPLETE] * 6


def test_a_worker_on_which_trials_fail_is_quarantined_and_its_trials_resume_elsewhere(sqlite_url: str) -> None:
    faults = ReplayFaults(script=(ReplayFault(kind=FaultKind.FAIL, worker="replay-1"),))
    with replayed(sqlite_url, workers=3, faults=faults, budget={"trials": 12}) as one:
        one.run()
    assert list(one.seen.out) == ["replay-1"]
    assert states(sqlite_url) == [TrialState.COMPLETE] * 12


class Forgetful(RemoteFiles):
    """Remote files with an unexpected error."""

    def remove(self, _folder: Path, _goes: Callable[[str], bool], /) -> None:
        raise KeyError("a name that it should know")


def test_any_error_of_the_removal_of_files_is_logged_and_the_search_continues(
    sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with replayed(sqlite_url, budget={"trials": 6}) as one, caplog.at_level(logging.ERROR, "hpo"):
        one.run(files=tmp_path, remote=Forgetful())
    assert states(sqlite_url) == [TrialState.COMPLETE] * 6
    assert "a name that it should know" in caplog.text


class Failing(FaultyWorkerPool):
    """A pool in which some workers cannot be started again after their process has died."""

    unfit: frozenset[str] = frozenset()

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        said: list[tuple[str, WorkerMessage]] = []
        for worker, message in super().listen(seconds):
            said.append((worker, message))
            if isinstance(message, WorkerLost) and worker in self.unfit:
                self.discard(worker)
                said.append((worker, WorkerLost(cause=LossCause.UNUSABLE, reason="No memory.")))
        return said


def failing(one: ReplayedRun, workers: int, faults: ReplayFaults, unfit: set[str]) -> None:
    one.pool = Failing(workers, GeneratedCurves(6), one.clock, prefetch=1, faults=faults, metric="macro_f1")
    one.pool.unfit = frozenset(unfit)


def test_a_worker_that_cannot_be_started_again_is_reported_once_and_its_trials_resume_elsewhere(
    sqlite_url: str,
) -> None:
    faults = ReplayFaults(script=(ReplayFault(kind=FaultKind.DIE, worker="replay-1"),))
    with replayed(sqlite_url, budget={"trials": 6}) as one:
        failing(one, 2, faults, {"replay-1"})
        one.run()
    assert one.seen.out == {"replay-1": "No memory."}
    assert states(sqlite_url) == [TrialState.COMPLETE] * 6


def test_the_last_trial_is_retried_on_the_worker_where_it_failed_if_no_other_is_left(sqlite_url: str) -> None:
    """It fails on one worker and waits for the other, which dies and cannot be started again."""
    faults = ReplayFaults(
        script=(
            ReplayFault(kind=FaultKind.FAIL, trial=1, attempt=1),
            ReplayFault(kind=FaultKind.DIE, worker="replay-0", trial=0),
        )
    )
    with replayed(sqlite_url, budget={"trials": 2}, prefetch=0) as one:
        failing(one, 2, faults, {"replay-0"})
        one.run()
    assert states(sqlite_url) == [TrialState.COMPLETE] * 2


class Wearing(FaultyWorkerPool):
    """A pool in which a worker takes no more trials after its first one, and then disappears without a message."""

    worn: str = "replay-0"
    is_worn = False

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        return {name: one for name, one in super().capacities.items() if not (self.is_worn and name == self.worn)}

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        if self.is_worn:
            self.discard(self.worn)
        said = super().listen(seconds)
        self.is_worn = self.is_worn or any(
            worker == self.worn and isinstance(message, Outcome) for worker, message in said
        )
        return said


def test_a_trial_that_waits_for_a_lost_worker_is_given_to_another(sqlite_url: str) -> None:
    faults = ReplayFaults(script=(ReplayFault(kind=FaultKind.FAIL, trial=1, attempt=1, share=0.1),))
    with replayed(sqlite_url, budget={"trials": 2}, prefetch=0) as one:
        one.pool = Wearing(2, GeneratedCurves(3), one.clock, prefetch=0, faults=faults, metric="macro_f1")
        one.run()
    assert states(sqlite_url) == [TrialState.COMPLETE] * 2


def test_a_search_whose_workers_have_disappeared_ends_with_an_error(sqlite_url: str) -> None:
    with replayed(sqlite_url, budget={"trials": 2}) as one:
        one.pool = Wearing(1, GeneratedCurves(3), one.clock, prefetch=0, metric="macro_f1")
        with pytest.raises(TrainingError, match=r"No worker is left to train on, and no other comes\."):
            one.run()


def test_a_search_whose_workers_cannot_be_started_again_ends_with_an_error(sqlite_url: str) -> None:
    faults = ReplayFaults(rates={FaultKind.DIE: 1.0})
    with replayed(sqlite_url, budget={"trials": 6}) as one:
        failing(one, 2, faults, {"replay-0", "replay-1"})
        with pytest.raises(TrainingError, match="No worker is left"):
            one.run()
    assert set(one.seen.out) == {"replay-0", "replay-1"}
    assert TrialState.RUNNING not in states(sqlite_url)


def test_an_error_of_every_trial_ends_the_search_with_that_error(sqlite_url: str) -> None:
    faults = ReplayFaults(rates={FaultKind.FAIL: 1.0})
    with (
        replayed(sqlite_url, workers=3, faults=faults, budget={"trials": 40}) as one,
        pytest.raises(TrainingError) as told,
    ):
        one.run()
    assert "times running" in str(told.value)
    assert str(told.value).startswith("An error was scripted")
    assert len(one.seen.out) < 2, "workers are not quarantined for an error of every trial"
    assert TrialState.RUNNING not in states(sqlite_url)
    assert len(plain_trials(sqlite_url)) < 10


@pytest.mark.parametrize("seed", range(4))
def test_under_random_faults_every_trial_ends_once(seed: int, sqlite_url: str) -> None:
    rates = {FaultKind.DIE: 0.15, FaultKind.FAIL: 0.1, FaultKind.HANG: 0.05}
    config: dict[str, Any] = {"budget": {"trials": 20}, "search": {"sampler": "tpe", "pruner": "median"}}
    with replayed(sqlite_url, workers=4, faults=ReplayFaults(rates=rates, seed=seed), **config) as one:
        one.run()
    trials = plain_trials(sqlite_url)
    assert [trial.number for trial in trials] == list(range(20))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    told = rows(
        sqlite_url,
        "SELECT trial, count(*) FROM hpo_events WHERE kind IN ('completed', 'pruned', 'diverged', 'infeasible') "
        "GROUP BY trial HAVING count(*) > 1",
    )
    assert told == []
    assert rows(sqlite_url, "SELECT count(*) FROM hpo_attempts WHERE ending IS NULL") == [(0,)]
