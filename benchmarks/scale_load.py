"""Workers that take no time: they drive a coordinator as the dispatch does, in parallel; every call is timed."""

import math
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, TypeVar

import optuna

from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.messages import Action, Assignment, Capacity, Ending, Outcome, Report, Scores
from hpo.runners.replay.curves import Curve, Point
from hpo.search.coordinator import Coordinator
from hpo.search.study_opening import leading
from hpo.space.space_file import space_of

WORKERS = 64
REPORTS = 5
RUNGS = 7
"""Of the longest trial: over the epochs of the space they make `REPORTS` on average."""
TRIAL_SECONDS = 600.0
STEERS_AFTER = 8
"""Messages between two looks at what was asked for from outside."""
STANDINGS = 5
CALLS: Mapping[str, float] = {
    "next_assignment": 1, "expected_seconds": 1, "observe": REPORTS, "finish": 1, "files_needed": 1,
    "stop_requests": (REPORTS + 1) / STEERS_AFTER,
}  # fmt: skip
"""Verb -> how often it is called for one trial."""

Result = TypeVar("Result")


def study_at(url: str, *, sampler: str = "random", pruner: str = "none", time: str = "900h") -> StudyConfig:
    """Return a study over the space `encoder`, with every limit set that a proposal may have to look at."""
    return load_config(
        values={
            "study": "scale", "model": {"name": "none"}, "data": {"train": "none.csv"}, "space": "encoder",
            "search": {"sampler": sampler, "pruner": pruner},
            "evaluation": {"rungs": RUNGS, "first_rung": 100, "full_reports": 1},
            "confirmation": {"finalists": 0, "audit": 0},
            "budget": {"time": time, "gpu_hours": 1e6, "patience": 100_000},
            "store": {"url": url, "keep_weights": 3},
        }
    )  # fmt: skip


@contextmanager
def led(config: StudyConfig, clock: Callable[[], float] = time.time) -> Iterator[Coordinator]:
    """Lead the study of `config` as who has led it from its first trial on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with leading(config, space_of(config.space), data_fingerprint="none", clock=clock) as coordinator:
        coordinator.begin(metric="macro_f1", versions={})
        coordinator.faults.workers = [_name(number) for number in range(WORKERS)]
        # Nothing was ever asked for from outside, so all of the log comes after the last word heard.
        coordinator._last_event = 0
        yield coordinator


@dataclass(slots=True)
class Timings:
    """Milliseconds of every call, by verb."""

    taken: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def call(self, verb: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Call a verb and return what it returns."""
        began = time.perf_counter()
        result = verb(*arguments, **named)
        self.taken[verb.__name__].append(1000 * (time.perf_counter() - began))
        return result

    def add(self, others: "Timings") -> None:
        """Take in the calls of others."""
        for verb, taken in others.taken.items():
            self.taken[verb] += taken

    def median(self, verb: str) -> float:
        """Return what half of the calls of a verb stayed below."""
        return median(self.taken[verb])

    def p95(self, verb: str) -> float:
        """Return what 95 of 100 calls of a verb stayed below."""
        return quantiles(self.taken[verb], n=20)[-1]

    def of_a_trial(self) -> float:
        """Return the milliseconds that a leader spends on one trial, all in all."""
        return sum(calls * sum(self.taken[verb]) / len(self.taken[verb]) for verb, calls in CALLS.items())


@dataclass(slots=True)
class _Training:
    """What one worker is at."""

    assignment: Assignment
    ahead: deque[Report]
    """Its reports to come."""
    seen: list[Report] = field(default_factory=list)


class Load:
    """Workers side by side, each in the middle of a trial of its own."""

    def __init__(self, coordinator: Coordinator, workers: int = WORKERS) -> None:
        """Give each worker a trial, each a report further on than the one before it."""
        self._coordinator = coordinator
        self._training = deque(self._begun(number, Timings()) for number in range(workers))
        for number, one in enumerate(self._training):
            for _ in range(number % REPORTS):
                if one.ahead:
                    self._report(one, Timings())

    def train(self, trials: int) -> Timings:
        """Let so many trials end and as many begin; return what every call took."""
        timings, ended, said = Timings(), 0, 0
        while ended < trials:
            if said % STEERS_AFTER == 0:
                timings.call(self._coordinator.stop_requests)
            one = self._training.popleft()
            if one.ahead:
                self._report(one, timings)
            else:
                self._end(one, timings)
                timings.call(self._coordinator.files_needed)
                one, ended = self._begun(ended % WORKERS, timings), ended + 1
            self._training.append(one)
            said += 1
        for _ in range(STANDINGS):
            timings.call(self._coordinator.standing)
        return timings

    def drain(self) -> None:
        """Let what is in training come to its end."""
        while self._training:
            one = self._training.popleft()
            while one.ahead:
                self._report(one, Timings())
            self._end(one, Timings())

    def _begun(self, number: int, timings: Timings) -> _Training:
        capacity = Capacity(worker=_name(number), device="cpu")
        assignment = timings.call(self._coordinator.next_assignment, uuid.uuid4().hex, capacity)
        assert assignment is not None
        timings.call(self._coordinator.expected_seconds, assignment)
        return _Training(assignment, deque(_reports(assignment)))

    def _report(self, one: _Training, timings: Timings) -> None:
        report = one.ahead.popleft()
        one.seen.append(report)
        if timings.call(self._coordinator.observe, report).action is Action.STOP:
            one.ahead.clear()

    def _end(self, one: _Training, timings: Timings) -> None:
        last = one.seen[-1]
        outcome = Outcome(
            trial=last.trial, attempt=last.attempt, ending=Ending.COMPLETED if last.full else Ending.PRUNED,
            best=last if last.full else None, seconds=last.seconds, peak_memory_bytes=1,
        )  # fmt: skip
        timings.call(self._coordinator.finish, outcome)


class Curves:
    """Learning curves of trials that take `TRIAL_SECONDS`, over the epochs of the space on average, or a tenth more."""

    def curve(self, assignment: Assignment) -> Curve:
        """Return the curve of a trial."""
        # Six epochs are the most, four the mean. Trials that begin together do not all end together.
        pace = 6 / 4 * TRIAL_SECONDS * (0.9 + assignment.trial * 0.618 % 0.2) / 1000
        points = tuple(
            Point(rung=one.rung, score=_score_at(assignment, one.rung), seconds=pace * one.rung)
            for one in assignment.milestones
        )
        return Curve(
            hyperparameters=assignment.hyperparameters, length=points[-1].rung, points=points,
            ending=Ending.COMPLETED, seconds=points[-1].seconds,
        )  # fmt: skip

    def true_score(self, assignment: Assignment) -> float:
        """Return the score at its end."""
        return _score_at(assignment, assignment.milestones[-1].rung)


def _name(number: int) -> str:
    return f"worker-{number}"


def _reports(assignment: Assignment) -> Iterator[Report]:
    last = assignment.milestones[-1].rung
    rungs = [last * part // REPORTS for part in range(1, REPORTS + 1)]
    return (_report_at(assignment, rung, full=rung == last) for rung in rungs)


def _report_at(assignment: Assignment, rung: int, *, full: bool) -> Report:
    score, rate = _score_at(assignment, rung), assignment.hyperparameters.learning_rate
    values = {"macro_f1": score, "micro_f1": 0.5, "weighted_f1": 0.5, "accuracy": 0.5, "loss": 0.7}
    per_class = {name: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 100} for name in ("a", "b", "c")}
    scores = Scores(metric="macro_f1", values=values, rows=300, per_class=per_class, confusion=((50, 25, 25),) * 3)
    return Report(
        trial=assignment.trial, attempt=assignment.attempt, rung=rung, full=full, decides=not full, step=rung,
        epoch=rung / 250, examples_seen=rung * 16, learning_rate=rate, train_loss=0.5, validation=scores,
        train=scores if full else None, seconds=TRIAL_SECONDS * rung / 1000, peak_memory_bytes=1,
    )  # fmt: skip


def _score_at(assignment: Assignment, rung: int) -> float:
    rate = assignment.hyperparameters.learning_rate
    return 0.4 + rung / 4000 + 0.3 / (1 + abs(math.log10(rate / 1e-4))) + assignment.trial % 97 / 1000
