"""A worker with two slots, scripted, as the dispatch and the coordinator see it: admitted, pruned, lost together."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.messages import Action, Assignment, Begun, Capacity, Decision, Ending, Outcome
from hpo.runners.callbacks import SearchCallback
from hpo.runners.dispatch import Dispatch
from hpo.runners.processes.worker_process import Inbox, Service
from hpo.runners.run import run
from hpo.runners.worker_pool import LossCause, WorkerLost, WorkerMessage
from hpo.search.coordinator import Coordinator
from hpo.training.probe import SlotRates
from hpo.training.worker import Worker
from tests.models import save_tiny_bert, tiny_assignment, tiny_study, write_texts
from tests.runners.openers import Counting
from tests.search.scripted import ended, led, plain_trials, report_at, rows, study_at

WORKER = "scripted-0"


class TwoSlots:
    """One worker that trains two trials side by side, by the script of a test: what it says when it is listened to."""

    prefetch = 0

    def __init__(self, script: Iterator[Sequence[WorkerMessage]] | None = None, slots: int = 2) -> None:
        self.slots, self.script = slots, script or iter(())
        self.training: dict[int, Assignment] = {}
        self.given: list[Assignment] = []
        self.decided: list[Decision] = []
        self.most = 0
        self._said: list[WorkerMessage] = []

    @property
    def workers(self) -> Collection[str]:
        return [WORKER]

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        return {WORKER: Capacity(worker=WORKER, device="cpu", slots=self.slots)}

    def give(self, worker: str, assignment: Assignment) -> None:
        self.given.append(assignment)
        self.training[assignment.trial] = assignment
        self.most = max(self.most, len(self.training))
        self._said.append(Begun(trial=assignment.trial, attempt=assignment.attempt))

    def apply(self, worker: str, decision: Decision) -> None:
        self.decided.append(decision)
        if decision.action is not Action.CONTINUE and decision.trial in self.training:
            ending = Ending.PRUNED if decision.action is Action.STOP else Ending.PAUSED
            self._said.append(ended(self.training.pop(decision.trial), ending))

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        said, self._said = self._said, []
        if not said:
            said = list(next(self.script, ()))
        if not said and self.training:
            said = [self.completed(min(self.training))]
        return [(WORKER, one) for one in said]

    def kill(self, worker: str, reason: str) -> None: ...

    def discard(self, worker: str) -> None: ...

    def completed(self, trial: int) -> Outcome:
        assignment = self.training.pop(trial)
        return ended(assignment, Ending.COMPLETED, report_at(assignment, assignment.milestones[-1], 0.5 + trial / 100))

    def runs_out_of_memory(self, trial: int) -> Outcome:
        return replace(ended(self.training.pop(trial), Ending.INFEASIBLE), out_of_memory=True)

    def dies(self) -> Sequence[WorkerMessage]:
        self.training.clear()
        return [WorkerLost(reason="It was killed.")]


class Seen(SearchCallback):
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.begun: list[Assignment] = []

    def assigned(self, assignment: Assignment) -> None:
        self.begun.append(assignment)

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@contextmanager
def searched(url: str, worker: TwoSlots, **sections: Any) -> Iterator[Seen]:
    seen = Seen()
    with led(study_at(url, **sections)) as coordinator:
        Dispatch(coordinator, worker, seen, Event(), listens_seconds=0.0).run()
        assert coordinator.faults.quarantined == {}
        yield seen


def attempts(url: str, trial: int) -> list[str]:
    return [row[0] for row in rows(url, f"SELECT ending FROM hpo_attempts WHERE trial = {trial} ORDER BY attempt")]


def test_two_are_in_training_side_by_side_and_a_third_takes_the_place_of_one(sqlite_url: str) -> None:
    worker = TwoSlots()
    with searched(sqlite_url, worker, budget={"trials": 5}) as seen:
        assert worker.most == 2
    assert [one.trial for one in seen.begun] == list(range(5))
    assert [trial.state for trial in plain_trials(sqlite_url)] == [TrialState.COMPLETE] * 5


def test_a_report_prunes_its_own_trial_and_not_the_one_beside_it(sqlite_url: str) -> None:
    def script() -> Iterator[Sequence[WorkerMessage]]:
        # The fifth is the first that the median rule may prune.
        for trial in range(4):
            assignment = worker.training[trial]
            yield [report_at(assignment, milestone, 0.5) for milestone in assignment.milestones]
            yield [worker.completed(trial)]
        for milestone in (assignment := worker.training[4]).milestones[:-1]:
            if 4 in worker.training:
                yield [report_at(assignment, milestone, 0.1)]
        assert list(worker.training) == [5]

    worker = TwoSlots()
    worker.script = script()
    search = {"pruner": "median", "pruner_startup_trials": 4}
    with searched(sqlite_url, worker, budget={"trials": 6}, search=search):
        pass
    assert [decision.trial for decision in worker.decided if decision.action is Action.STOP] == [4]
    states = [trial.state for trial in plain_trials(sqlite_url)]
    assert states == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.COMPLETE]


def test_lost_together_nobody_is_charged_and_each_is_tried_again_alone(sqlite_url: str) -> None:
    """Five times over: one trial could not die as often, nor a worker."""

    def script() -> Iterator[Sequence[WorkerMessage]]:
        for _ in range(5):
            assert len(worker.training) == 2
            yield worker.dies()
            for _ in range(2):
                [alone] = worker.training.values()
                assert alone.alone
                yield [worker.completed(alone.trial)]

    worker = TwoSlots()
    worker.script = script()
    with searched(sqlite_url, worker, budget={"trials": 10}) as seen:
        pass
    assert not [outcome for outcome in seen.outcomes if outcome.ending is Ending.DIED]
    assert [trial.state for trial in plain_trials(sqlite_url)] == [TrialState.COMPLETE] * 10
    assert attempts(sqlite_url, 0) == ["paused", "completed"]


def test_only_the_trial_that_dies_alone_is_charged(sqlite_url: str) -> None:
    def script() -> Iterator[Sequence[WorkerMessage]]:
        yield worker.dies()
        while worker.training:
            [alone] = worker.training.values()
            yield worker.dies() if alone.trial == 1 else [worker.completed(alone.trial)]

    worker = TwoSlots()
    worker.script = script()
    with searched(sqlite_url, worker, budget={"trials": 2}):
        pass
    assert [trial.state for trial in plain_trials(sqlite_url)] == [TrialState.COMPLETE, TrialState.FAIL]
    assert attempts(sqlite_url, 0) == ["paused", "completed"]
    assert attempts(sqlite_url, 1) == ["paused", "died", "died", "died"]


def test_nobody_is_charged_nor_tried_alone_where_the_machine_is_gone(sqlite_url: str) -> None:
    worker = TwoSlots()
    worker.script = iter([[WorkerLost(reason="Its machine was preempted.", cause=LossCause.MACHINE)]] * 4)
    with searched(sqlite_url, worker, budget={"trials": 2}):
        pass
    assert attempts(sqlite_url, 0) == attempts(sqlite_url, 1) == ["paused"] * 4 + ["completed"]
    assert not any(assignment.alone for assignment in worker.given)


def test_one_that_dies_before_it_has_said_what_it_began_has_begun_the_first(sqlite_url: str) -> None:
    class Silent(TwoSlots):
        def give(self, worker: str, assignment: Assignment) -> None:
            super().give(worker, assignment)
            self._said.clear()

    worker = Silent()
    worker.script = iter([[WorkerLost(reason="It was killed.")]])
    with searched(sqlite_url, worker, budget={"trials": 2}):
        pass
    assert attempts(sqlite_url, 0) == ["died", "completed"]
    assert attempts(sqlite_url, 1) == ["paused", "completed"]


# -- from inside


class Served(Counting):
    """Counts two trials at a time; remembers which were side by side."""

    def __init__(self, files: Path) -> None:
        super().__init__(files, threads=1)
        self.runs: dict[int, int] = {}
        self.beside: list[set[int]] = []

    @property
    def free_slots(self) -> int:
        return 2 - len(self.runs)

    def admit(self, assignment: Assignment) -> None:
        self.runs[assignment.trial] = assignment.seed

    def advance(self, should_return: Callable[[], bool]) -> Any:
        self.beside.append(set(self.runs))
        self.runs = {trial: left - 1 for trial, left in self.runs.items()}
        over = [trial for trial, left in self.runs.items() if left == 0]
        return [self._outcome(trial) for trial in over]

    def _outcome(self, trial: int) -> Outcome:
        del self.runs[trial]
        return Outcome(trial=trial, attempt=1, ending=Ending.COMPLETED, seconds=1.0, peak_memory_bytes=0)


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_a_worker_fills_its_slots_and_trains_beside_none_what_is_to_be_alone(alone: int, tmp_path: Path) -> None:
    said: list[Any] = []

    def say(message: Any) -> None:
        said.append(message)
        inbox.ending = sum(isinstance(one, Outcome) for one in said) == 4

    inbox, worker = Inbox(say), Served(tmp_path)
    for trial in range(4):
        inbox.take(tiny_assignment(trial=trial, seed=2 + trial, alone=trial == alone))
    Service(worker, inbox, say).run()
    begun = [one.trial for one in said if isinstance(one, Begun)]
    assert begun == [0, 1, 2, 3]
    assert {one for beside in worker.beside if len(beside) == 2 for one in beside} <= {0, 1, 2, 3} - {alone}
    assert any(len(beside) == 2 for beside in worker.beside)


def test_out_of_memory_beside_another_a_trial_is_tried_alone_before_it_is_infeasible(sqlite_url: str) -> None:
    def script() -> Iterator[Sequence[WorkerMessage]]:
        yield [worker.runs_out_of_memory(1)]
        assert list(worker.training) == [0]
        yield [worker.completed(0)]
        [alone] = worker.training.values()
        assert (alone.trial, alone.attempt, alone.alone) == (1, 2, True)
        yield [worker.runs_out_of_memory(1)]

    worker = TwoSlots()
    worker.script = script()
    with searched(sqlite_url, worker, budget={"trials": 2}):
        pass
    assert attempts(sqlite_url, 1) == ["paused", "infeasible"]
    assert [trial.state for trial in plain_trials(sqlite_url)] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_two_that_run_out_of_memory_in_one_step_are_each_tried_alone(sqlite_url: str) -> None:
    def script() -> Iterator[Sequence[WorkerMessage]]:
        yield [worker.runs_out_of_memory(1), worker.runs_out_of_memory(0)]
        for _ in range(2):
            [alone] = worker.training.values()
            assert (alone.attempt, alone.alone) == (2, True)
            yield [worker.completed(alone.trial)]

    worker = TwoSlots()
    worker.script = script()
    with searched(sqlite_url, worker, budget={"trials": 2}):
        pass
    assert [attempts(sqlite_url, trial) for trial in (0, 1)] == [["paused", "completed"]] * 2


def test_while_one_waits_to_be_tried_alone_nothing_is_asked_ahead(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would begin at once in the free slot, and the one that waits might wait for ever."""
    left = [math.inf]

    def script() -> Iterator[Sequence[WorkerMessage]]:
        yield [worker.runs_out_of_memory(1)]
        left[0] = 0.0
        yield [report_at(worker.training[0], worker.training[0].milestones[0], 0.5)]
        assert list(worker.training) == [0]
        yield [worker.completed(0)]
        assert worker.given[2].trial == 1
        worker.prefetch = 0

    monkeypatch.setattr(Coordinator, "expected_seconds", lambda *_: left[0])
    worker = TwoSlots()
    worker.script, worker.prefetch = script(), 1
    with searched(sqlite_url, worker, budget={"trials": 3}, search={"pruner": "none"}):
        pass
    assert attempts(sqlite_url, 1) == ["paused", "completed"]


def test_a_worker_s_death_is_charged_to_the_one_left_when_another_has_run_out_of_memory(sqlite_url: str) -> None:
    def script() -> Iterator[Sequence[WorkerMessage]]:
        yield [worker.runs_out_of_memory(1)]
        yield worker.dies()

    worker = TwoSlots()
    worker.script = script()
    with searched(sqlite_url, worker, budget={"trials": 2}):
        pass
    assert attempts(sqlite_url, 0) == ["died", "completed"]
    assert attempts(sqlite_url, 1) == ["paused", "completed"]
    assert {one.trial: one.alone for one in worker.given if one.attempt == 2} == {0: False, 1: True}


# -- a real one


@pytest.mark.slow
def test_a_worker_process_trains_two_trials_of_head_side_by_side_each_as_if_it_were_alone(tmp_path: Path) -> None:
    class Order(Seen):
        def __init__(self) -> None:
            super().__init__()
            self.order: list[str] = []

        def assigned(self, assignment: Assignment) -> None:
            self.order.append(f"begun {assignment.trial}")

        def ended(self, outcome: Outcome) -> None:
            self.order.append(f"ended {outcome.trial}")

    def searched(slots: int, runner: str) -> tuple[list[str], dict[int, float]]:
        values: dict[str, Any] = {
            "space": {
                "method": {"value": "head"},
                "learning_rate": {"min": 1e-3, "max": 1e-1, "default": 1e-2},
                "max_length": {"value": 16},
                "batch_size": {"value": 8},
                "epochs": {"value": 2},
            },
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1, "runner": runner, "slots": slots},
            "search": {"sampler": "random", "pruner": "none"},
            "budget": {"trials": 4},
            "store": {"url": f"sqlite:///{tmp_path / runner}.db"},
        }
        seen = Order()
        results = run(tiny_study(model, texts, **values), seen)
        return seen.order, {trial.number: trial.validation.values["loss"] for trial in results.trials}

    model, texts = save_tiny_bert(tmp_path / "bert"), write_texts(tmp_path / "texts.csv", rows=80)
    order, together = searched(2, "processes")
    assert order[:2] == ["begun 0", "begun 1"]
    assert sorted(order) == sorted(f"{what} {trial}" for what in ("begun", "ended") for trial in range(4))
    alone = searched(1, "inline")[1]
    assert together == pytest.approx(alone, abs=1e-5)


class Order(SearchCallback):
    def __init__(self) -> None:
        self.order: list[str] = []
        self.notes: list[str] = []

    def assigned(self, assignment: Assignment) -> None:
        self.order.append(f"begun {assignment.trial}")

    def ended(self, outcome: Outcome) -> None:
        self.order.append(f"ended {outcome.trial}")

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.mark.parametrize(("method", "slots"), [("lora", 3), ("full", 1)])
def test_slots_are_measured_once_a_study_where_trials_can_share(
    method: str, slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(trials: int) -> Order:
        values: dict[str, Any] = {
            "space": {
                "method": {"value": method}, "max_length": {"value": 16}, "batch_size": {"value": 8},
                "learning_rate": {"min": 1e-3, "max": 1e-2, "default": 1e-2}, "epochs": {"value": 1},
            },
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1, "runner": "inline", "slots": "auto"},
            "search": {"sampler": "random", "pruner": "none"}, "budget": {"trials": trials},
            "store": {"url": f"sqlite:///{tmp_path / 'hpo'}.db"},
        }  # fmt: skip
        seen = Order()
        run(tiny_study(model, texts, **values), seen)
        return seen

    model, texts = save_tiny_bert(tmp_path / "bert"), write_texts(tmp_path / "texts.csv", rows=40)
    monkeypatch.setattr(Worker, "slot_rates", lambda *_: SlotRates(rates={1: 10.0, 3: 25.0}, shared_tokens=48))
    first = searched(4)
    assert first.order[:slots] == [f"begun {trial}" for trial in range(slots)]
    assert first.order[slots] == "ended 0"
    said = "Each worker trains 3 trials side by side, 2.50 times as many steps a second as one by one."
    assert (said in first.notes) == (slots > 1)
    monkeypatch.setattr(Worker, "slot_rates", lambda *_: pytest.fail("It is known."))
    again = searched(7)
    assert again.order[:slots] == [f"begun {trial}" for trial in range(4, 4 + slots)]
