"""One attempt at a trial as a replay trains it: along its curve, saying each thing at its second."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import Action, Assignment, Ending, Outcome, Progress, Report, Scores
from hpo.runners.replay.curves import TRAIN_ROWS, Curve
from hpo.runners.replay.faults import ReplayFault, ReplayFaultKind
from hpo.runners.workforce import Lost
from hpo.training.milestones import steps_per_epoch
from hpo.training.run import LEAST_STEPS_TO_DECIDE
from hpo.training.schedules import warmup_steps

SCORED_ROWS = {True: 1000, False: 200}
"""Validation texts of an evaluation, full or not."""
PEAK_MEMORY_BYTES = 2**30
NEVER = math.inf

Spoken = Report | Progress | Outcome | Lost


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayState:
    """Where a trial goes on: what a checkpoint holds."""

    work: float = 0.0
    """Seconds of its curve."""
    seconds: float = 0.0
    """Seconds that were spent on it; more where a worker was slow."""
    evaluations: int = 0
    best: Report | None = None
    full_since_best: int = 0


class ReplayedAttempt:
    """An assignment in training. It goes on from `place`, which moves on with each evaluation and at a pause."""

    def __init__(
        self,
        assignment: Assignment,
        curve: Curve,
        place: ReplayState,
        *,
        began: float,
        slowness: float = 1.0,
        fault: ReplayFault | None = None,
        speaks_every: float,
        metric: str,
    ) -> None:
        """Begin at the moment `began`, in seconds since 1970, to say something at least each `speaks_every` seconds."""
        self.assignment, self.place, self.began = assignment, place, began
        self._start, self._curve, self._slowness, self._mishap = place, curve, slowness, fault
        self._speaks_every, self._spoke_at, self._metric = speaks_every, began, metric
        self._steps = steps_of(assignment.hyperparameters, curve.train_rows)

    @property
    def due(self) -> float:
        """When it says its next thing; infinite if it hangs."""
        return self._next()[0]

    def speak(self) -> Spoken:
        """Return what it says at `due`, and go on; an `Outcome` or a `Lost` is the last."""
        moment, say = self._next()
        self._spoke_at = moment
        return say(moment)

    def decide(self, action: Action, now: float) -> Outcome | None:
        """Take a decision at its next step, which is now or its first; return the end that it makes, if it does."""
        now = max(now, self.began)
        if action is Action.CONTINUE or now >= self._ends_at():
            return None
        work = self._work_at(now)
        where = f"after step {self._step(self._share_at(work))} of {self._steps}"
        if action is Action.STOP:
            return self._outcome(Ending.PRUNED, now, f"Stopped {where}.")
        self.place = replace(self.place, work=work, seconds=self._seconds_at(now))
        return self._outcome(Ending.PAUSED, now, f"Paused {where}.")

    def _next(self) -> tuple[float, Callable[[float], Spoken]]:
        """Return when the next thing comes, and what says it then; of several at once, the first as they stand here."""
        limit, fault = self.assignment.limit_seconds, self._mishap
        coming: list[tuple[float, Callable[[float], Spoken]]] = []
        if fault is not None:
            meets = self._die if fault.kind is ReplayFaultKind.DIE else self._fail
            coming.append((self._moment_of(max(self._start.work, fault.share * self._curve.seconds)), meets))
        coming.append((self._evaluated_at(), self._report))
        coming.append((self._ends_at(), self._end))
        if limit is not None:
            coming.append((self.began + max(0.0, limit - self._start.seconds), self._exceed_limit))
        coming.append((self._spoke_at + self._speaks_every, self._progress))
        moment, say = min(coming, key=lambda thing: thing[0])
        hangs = fault is not None and fault.kind is ReplayFaultKind.HANG and moment >= coming[0][0]
        return (NEVER if hangs else moment), say

    # -- when

    def _evaluated_at(self) -> float:
        left = self._curve.points[self.place.evaluations :]
        return NEVER if self._is_out_of_patience() or not left else self._moment_of(left[0].seconds)

    def _ends_at(self) -> float:
        """Return when its training ends; infinite as long as an evaluation comes before."""
        if self._is_out_of_patience():
            return self._spoke_at
        return self._moment_of(self._curve.seconds) if self._evaluated_at() == NEVER else NEVER

    def _is_out_of_patience(self) -> bool:
        patience = self.assignment.hyperparameters.early_stopping_patience
        return patience is not None and self.place.full_since_best >= patience

    def _moment_of(self, work: float) -> float:
        return self.began + (work - self._start.work) * self._slowness

    def _work_at(self, moment: float) -> float:
        return self._start.work + (moment - self.began) / self._slowness

    def _seconds_at(self, moment: float) -> float:
        return self._start.seconds + moment - self.began

    # -- how far

    def _share_at(self, work: float) -> float:
        """Return the share of the trial that is trained by then, in 0..1."""
        seconds, rungs = [0.0], [0]
        for point in self._curve.points:
            seconds.append(point.seconds)
            rungs.append(point.rung)
        return float(np.interp(work, seconds, rungs)) / self._curve.length

    def _step(self, share: float) -> int:
        return math.ceil(share * self._steps - 1e-9)

    def _examples(self, share: float) -> int:
        return round(share * examples_of(self.assignment.hyperparameters))

    # -- what

    def _report(self, moment: float) -> Report:
        number = self.place.evaluations
        point, milestone = self._curve.points[number], self.assignment.milestones[number]
        assert point.rung == milestone.rung, "a source answers with a point for each milestone"
        hyperparameters, share = self.assignment.hyperparameters, point.rung / self._curve.length
        step, scores = self._step(share), scores_of(self._metric, point.score, full=milestone.full)
        least = max(LEAST_STEPS_TO_DECIDE, warmup_steps(self._curve.hyperparameters, self._steps))
        report = Report(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            rung=point.rung,
            full=milestone.full,
            decides=least <= step < self._steps,
            step=step,
            epoch=share * hyperparameters.epochs,
            examples_seen=self._examples(share),
            learning_rate=hyperparameters.learning_rate,
            train_loss=scores.values["loss"],
            validation=scores,
            train=scores if milestone.full else None,
            seconds=self._seconds_at(moment),
            peak_memory_bytes=PEAK_MEMORY_BYTES,
        )
        self.place = _after(self.place, report, point.seconds)
        return report

    def _progress(self, moment: float) -> Progress:
        work = self._work_at(moment)
        total = examples_of(self.assignment.hyperparameters)
        return Progress(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            examples_seen=self._examples(self._share_at(work)),
            examples_total=total,
            examples_per_second=total / (self._curve.seconds * self._slowness),
            learning_rate=self.assignment.hyperparameters.learning_rate,
            train_loss=0.0 if self.place.best is None else self.place.best.train_loss,
            seconds=self._seconds_at(moment),
        )

    def _end(self, moment: float) -> Outcome:
        ending = self._curve.ending
        reason = "" if ending is Ending.COMPLETED else f"The curve that is replayed {ending} here."
        return self._outcome(Ending.COMPLETED if self._is_out_of_patience() else ending, moment, reason)

    def _exceed_limit(self, moment: float) -> Outcome:
        limit = self.assignment.limit_seconds
        return self._outcome(Ending.INFEASIBLE, moment, f"Not trained within its limit of {limit:.0f} seconds.")

    def _fail(self, moment: float) -> Outcome:
        return self._outcome(Ending.FAILED, moment, "A mishap: the attempt failed.")

    def _die(self, _moment: float) -> Lost:
        return Lost(reason="A mishap: the process died.")

    def _outcome(self, ending: Ending, moment: float, reason: str) -> Outcome:
        return Outcome(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            ending=ending,
            best=self.place.best,
            seconds=self._seconds_at(moment),
            peak_memory_bytes=PEAK_MEMORY_BYTES,
            resumed_examples=self._examples(self._share_at(self._start.work)),
            resumed_seconds=self._start.seconds,
            reason=reason,
        )


def steps_of(hyperparameters: Hyperparameters, train_rows: int = TRAIN_ROWS) -> int:
    """Return the optimizer steps of a trial in a replay."""
    rows = max(1, round(train_rows * hyperparameters.data_fraction))
    return hyperparameters.epochs * steps_per_epoch(rows, hyperparameters.batch_size)


def examples_of(hyperparameters: Hyperparameters) -> int:
    """Return the examples that a trial sees in a replay."""
    return hyperparameters.epochs * max(1, round(TRAIN_ROWS * hyperparameters.data_fraction))


def scores_of(metric: str, score: float, *, full: bool) -> Scores:
    """Return an evaluation that gave `score`; its loss is one that goes with it."""
    return Scores(metric=metric, values={metric: score, "loss": math.exp(-score)}, rows=SCORED_ROWS[full])


def _after(place: ReplayState, report: Report, work: float) -> ReplayState:
    """Return where a trial stands after an evaluation."""
    best, since = place.best, place.full_since_best
    if report.full:
        better = best is None or report.validation.objective > best.validation.objective
        best, since = (report, 0) if better else (best, since + 1)
    return ReplayState(
        work=work, seconds=report.seconds, evaluations=place.evaluations + 1, best=best, full_since_best=since
    )
