"""Replay worker pool: workers that follow learning curves on a virtual clock, a whole search in seconds."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import PrunerName
from hpo.messages import Action, Assignment, Begun, Capacity, Decision, Ending, Outcome, Progress, Report, Scores
from hpo.runners.replay.curves import TRAIN_ROWS, Curve, CurveSource
from hpo.runners.worker_pool import WorkerMessage
from hpo.training.milestones import steps_per_epoch
from hpo.training.run import Message, steps_to_prune

SCORED_ROWS = {True: 1000, False: 200}
"""Validation rows of a full evaluation, and of a part."""
PEAK_MEMORY_BYTES = 2**30
SIMULATION_START = 1_767_290_400.0
"""2026-01-01 18:00 UTC."""


class ReplayedAttempt:
    """An assignment in training."""

    def __init__(
        self,
        assignment: Assignment,
        curve: Curve,
        *,
        began: float,
        progress_every: float,
        metric: str,
        pruner: PrunerName = "none",
    ) -> None:
        """Begin at `began`, in seconds since 1970, with a message at least every `progress_every` seconds.

        Args:
            assignment: to train.
            curve: its learning curve, with a point at each milestone.
            began: start of the attempt.
            progress_every: longest time between two messages.
            metric: name of the curve's scores.
            pruner: name of the study's pruner.
        """
        self.assignment, self.began, self.since = assignment, began, began
        self._curve, self._progress_every, self._metric = curve, progress_every, metric
        self._steps = steps_of(assignment.hyperparameters, curve.train_rows)
        self._least_steps = steps_to_prune(pruner, curve.hyperparameters, self._steps)
        self._last_message_at = self._paused_at = began
        self._evaluations = self._full_since_best = 0
        self._best: Report | None = None
        self._coming = self._next()

    def resume(self, assignment: Assignment, now: float) -> None:
        """Resume as a new attempt; `began` becomes the start that the trial would have had without pauses."""
        self.began += now - self._paused_at
        self.assignment, self.since, self._last_message_at = assignment, now, now
        self._coming = self._next()

    @property
    def due(self) -> float:
        """Time of its next message."""
        return self._coming[0]

    def advance(self) -> Message:
        """Return the message at `due`; an `Outcome` is the last."""
        moment, message_at = self._coming
        self._last_message_at = moment
        message = message_at(moment)
        self._coming = self._next()
        return message

    def decide(self, action: Action, now: float) -> Outcome | None:
        """Apply a decision at the next step; return the outcome if it ends the attempt."""
        if action is Action.CONTINUE or now >= self._ends_at():
            return None
        self._paused_at = now
        ending = Ending.PRUNED if action is Action.STOP else Ending.PAUSED
        return self._outcome(ending, now, f"At step {self._step(self._share_at(now))} of {self._steps}.")

    def _next(self) -> tuple[float, Callable[[float], Message]]:
        """Return the time of the next message and its function; of several at one time the first listed here."""
        coming: list[tuple[float, Callable[[float], Message]]] = [
            (self._evaluated_at(), self._report),
            (self._ends_at(), self._end),
            (self._last_message_at + self._progress_every, self._progress),
        ]
        if self.assignment.limit_seconds is not None:
            coming.insert(2, (self.began + self.assignment.limit_seconds, self._exceed_limit))
        return min(coming, key=lambda one: one[0])

    def _evaluated_at(self) -> float:
        left = self._curve.points[self._evaluations :]
        return math.inf if self._is_out_of_patience() or not left else self.began + left[0].seconds

    def _ends_at(self) -> float:
        """Return the end of its training; infinity while an evaluation comes first."""
        if self._is_out_of_patience():
            return self._last_message_at
        return self.began + self._curve.seconds if self._evaluated_at() == math.inf else math.inf

    def _is_out_of_patience(self) -> bool:
        patience = self.assignment.hyperparameters.early_stopping_patience
        return patience is not None and self._full_since_best >= patience

    def _share_at(self, moment: float) -> float:
        """Return the share of the trial that is trained at a time, in 0..1."""
        points = self._curve.points
        seconds, rungs = [0.0, *(point.seconds for point in points)], [0, *(point.rung for point in points)]
        return float(np.interp(moment - self.began, seconds, rungs)) / self._curve.length

    def _step(self, share: float) -> int:
        return math.ceil(share * self._steps - 1e-9)

    def _report(self, moment: float) -> Report:
        point, milestone = self._curve.points[self._evaluations], self.assignment.milestones[self._evaluations]
        assert point.rung == milestone.rung, "a curve has a point for each milestone"
        hyperparameters, share = self.assignment.hyperparameters, point.rung / self._curve.length
        values = {self._metric: point.score, "loss": math.exp(-point.score)}
        scores = Scores(metric=self._metric, values=values, rows=SCORED_ROWS[milestone.full])
        step = self._step(share)
        report = Report(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            rung=point.rung,
            full=milestone.full,
            decides=self._least_steps <= step < self._steps,
            step=step,
            epoch=share * hyperparameters.epochs,
            examples_seen=round(share * examples_of(hyperparameters)),
            learning_rate=hyperparameters.learning_rate,
            train_loss=scores.values["loss"],
            validation=scores,
            train=scores if milestone.full else None,
            seconds=moment - self.began,
            peak_memory_bytes=PEAK_MEMORY_BYTES,
        )
        self._evaluations += 1
        if report.full:
            is_best = self._best is None or report.score > self._best.score
            self._best, self._full_since_best = (report, 0) if is_best else (self._best, self._full_since_best + 1)
        return report

    def _progress(self, moment: float) -> Progress:
        total = examples_of(self.assignment.hyperparameters)
        return Progress(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            examples_seen=round(self._share_at(moment) * total),
            examples_total=total,
            examples_per_second=total / self._curve.seconds,
            learning_rate=self.assignment.hyperparameters.learning_rate,
            train_loss=0.0 if self._best is None else self._best.train_loss,
            seconds=moment - self.began,
        )

    def _end(self, moment: float) -> Outcome:
        ending = Ending.COMPLETED if self._is_out_of_patience() else self._curve.ending
        reason = "" if ending is Ending.COMPLETED else f"The replayed curve {ending} here."
        return self._outcome(ending, moment, reason)

    def _exceed_limit(self, moment: float) -> Outcome:
        limit = self.assignment.limit_seconds
        return self._outcome(Ending.INFEASIBLE, moment, f"The training exceeded its limit of {limit:.0f} seconds.")

    def _outcome(self, ending: Ending, moment: float, reason: str) -> Outcome:
        outcome = self.assignment.ended(ending, reason, moment - self.began)
        before = self.since - self.began
        return replace(
            outcome, best=self._best, peak_memory_bytes=PEAK_MEMORY_BYTES, resumed_seconds=before,
            resumed_examples=round(self._share_at(self.since) * examples_of(self.assignment.hyperparameters)),
        )  # fmt: skip


def steps_of(hyperparameters: Hyperparameters, train_rows: int = TRAIN_ROWS) -> int:
    """Return the optimizer steps of a trial in a replay."""
    rows = max(1, round(train_rows * hyperparameters.data_fraction))
    return hyperparameters.epochs * steps_per_epoch(rows, hyperparameters.batch_size)


def examples_of(hyperparameters: Hyperparameters) -> int:
    """Return the examples that a trial sees in a replay."""
    return hyperparameters.epochs * max(1, round(TRAIN_ROWS * hyperparameters.data_fraction))


class VirtualClock:
    """A clock of seconds since 1970, like `time.time`, that only `advance_to` moves."""

    def __init__(self, starts_at: float = SIMULATION_START) -> None:
        self._now = starts_at

    def __call__(self) -> float:
        """Return the time."""
        return self._now

    def advance_to(self, moment: float) -> None:
        """Move to `moment`, but never backwards."""
        self._now = max(self._now, moment)


class ReplayWorkerPool:
    """Workers `replay-0`, `replay-1` ... that follow the curves of a source; none is ever lost or hangs.

    Only `listen` puts the clock forward: to the next message of a worker.
    """

    # Requests take no virtual time, and a proposal that is made later knows more results.
    prefetch = 0

    def __init__(
        self,
        workers: int,
        source: CurveSource,
        clock: VirtualClock,
        *,
        metric: str,
        progress_every: float,
        pruner: PrunerName = "none",
    ) -> None:
        """Create workers that are open.

        Args:
            workers: number of workers, at least 1.
            source: learning curves of the trials.
            clock: the clock of the coordinator and the dispatch.
            metric: name of the source's scores.
            progress_every: seconds without a message after which a training worker sends its progress.
            pruner: name of the study's pruner.
        """
        self._source, self._clock, self._metric, self._progress_every = source, clock, metric, progress_every
        self._pruner = pruner
        self._paused: dict[int, ReplayedAttempt] = {}
        self._training: dict[str, ReplayedAttempt | None] = {f"replay-{number}": None for number in range(workers)}
        self._capacities = {name: Capacity(worker=name, device="cpu") for name in self._training}
        self._messages: list[tuple[str, WorkerMessage]] = []
        self._trained_seconds = 0.0

    @property
    def workers(self) -> Collection[str]:
        """Names of all workers."""
        return self._training.keys()

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """Capacities of all workers, by name."""
        return self._capacities

    @property
    def trained_seconds(self) -> float:
        """Sum of the workers' training seconds so far."""
        training = (attempt for attempt in self._training.values() if attempt)
        return self._trained_seconds + sum(self._clock() - attempt.since for attempt in training)

    def give(self, worker: str, assignment: Assignment) -> None:
        """Begin an assignment on an idle worker."""
        assert self._training[worker] is None, "a worker trains one assignment at a time"
        self._training[worker] = self._attempt(worker, assignment)
        self._messages.append((worker, Begun(trial=assignment.trial, attempt=assignment.attempt)))

    def apply(self, worker: str, decision: Decision) -> None:
        """Apply a decision at once; ignored if the worker does not train that attempt."""
        attempt = self._training.get(worker)
        if attempt is not None and is_about(decision, attempt.assignment):
            outcome = attempt.decide(decision.action, self._clock())
            if outcome is not None:
                if outcome.ending is Ending.PAUSED:
                    self._paused[outcome.trial] = attempt
                self._messages.append((worker, outcome))
                self._free(worker)

    def listen(self, seconds: float) -> Sequence[tuple[str, WorkerMessage]]:
        """Put the clock forward to the next messages and return them; without any within `seconds`, only by these.

        A call returns at most one due message of a worker.
        """
        if not self._messages:
            due = {name: attempt.due for name, attempt in self._training.items() if attempt}
            moment = min([self._clock() + max(0.0, seconds), *due.values()])
            assert moment < math.inf, "a worker trains, or the wait is finite"
            self._clock.advance_to(moment)
            for name in [name for name, at in due.items() if at <= moment]:
                self._advance(name)
        messages, self._messages = self._messages, []
        return messages

    def kill(self, _worker: str, _reason: str) -> None:
        """Do nothing: no worker hangs."""

    def discard(self, _worker: str) -> None:
        """Do nothing: no worker fails."""

    def _attempt(self, _worker: str, assignment: Assignment) -> ReplayedAttempt:
        if (paused := self._paused.pop(assignment.trial, None)) is not None:
            paused.resume(assignment, self._clock())
            return paused
        return ReplayedAttempt(
            assignment,
            self._source.curve(assignment),
            began=self._clock(),
            progress_every=self._progress_every,
            metric=self._metric,
            pruner=self._pruner,
        )

    def _advance(self, name: str) -> None:
        attempt = self._training[name]
        assert attempt is not None, "only a training worker has a due message"
        message = attempt.advance()
        self._messages.append((name, message))
        if isinstance(message, Outcome):
            self._free(name)

    def _free(self, name: str) -> None:
        attempt, self._training[name] = self._training[name], None
        if attempt is not None:
            self._trained_seconds += self._clock() - attempt.since


def is_about(decision: Decision, assignment: Assignment) -> bool:
    """Return true if a decision is about that attempt."""
    return (decision.trial, decision.attempt) == (assignment.trial, assignment.attempt)
