"""One attempt at one trial, from its first step to its outcome."""

import logging
import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from hpo.errors import HpoError
from hpo.messages import Action, Assignment, Ending, Milestone, Outcome, Progress, Report, Scores
from hpo.metrics.averaging import mean_scores
from hpo.training.bench import Bench
from hpo.training.checkpoints import Checkpoints
from hpo.training.course import Course, courses
from hpo.training.milestones import examples_seen
from hpo.training.optimization import Diverged, Optimization
from hpo.training.out_of_memory import is_out_of_memory, peak_memory_bytes, reset_peak
from hpo.training.place import Place
from hpo.training.randomness import RandomState
from hpo.training.schedules import warmup_steps
from hpo.training.weights import save_weights, trial_folder

SECONDS_BETWEEN_PROGRESS = 1.0
LEAST_STEPS_TO_DECIDE = 20
LONGEST_REASON = 300

Message = Report | Progress | Outcome
End = tuple[Ending, str]

logger = logging.getLogger(__name__)


class Run:
    """A trial in training. Each `advance` takes one optimizer step; nothing is computed before the first.

    All randomness follows from the assignment's seed, and torch's random state is the run's own while it computes and
    what it was outside: the same assignment gives the same bits on a CPU, whatever happens between two steps.
    """

    def __init__(self, assignment: Assignment, bench: Bench) -> None:
        self.assignment = assignment
        self._hyperparameters = assignment.hyperparameters
        self._bench = bench
        self._random = RandomState(assignment.seed, bench.device)
        self._asked = Action.CONTINUE
        self._place = Place()
        folder = None if bench.files is None else trial_folder(bench.files, assignment.trial)
        self._checkpoints = Checkpoints(folder, bench.identity(assignment))
        self._resumed_examples = 0
        self._began_at = 0.0
        self._spoke_at = 0.0
        self._spoke_of = 0
        self._total = 0
        self._life = self._train()

    def advance(self) -> Message | None:
        """Take a step and return what there is to say, mostly nothing; nothing may be asked after an `Outcome`."""
        self._began_at = time.perf_counter()
        try:
            with self._random:
                return next(self._life)
        except StopIteration as finished:
            end: End = finished.value
        except Exception as error:
            # Whatever a trial dies of is an outcome; the search goes on.
            logger.debug("Trial %d failed.", self.assignment.trial, exc_info=True)
            end = self._end_by(error)
        finally:
            self._place.seconds = self._elapsed()
        # Not in the handler: as long as the error lives, so do its frames and their tensors.
        return self._outcome(*end)

    def decide(self, action: Action) -> None:
        """Take a decision; it has its effect before the next step. Going on undoes nothing, nor a pause a stop."""
        if action is not Action.CONTINUE and self._asked is not Action.STOP:
            self._asked = action

    def close(self) -> None:
        """Give the run up without an outcome."""
        self._life.close()

    def _train(self) -> Generator[Report | Progress | None, None, End]:
        reset_peak(self._bench.device)
        way = courses(self.assignment, self._bench)
        self._total = sum(self._hyperparameters.epochs * course.rows.size for course in way)
        state = self._resumed_state()
        for number in range(self._place.course, len(way)):
            course, self._place.course = way[number], number
            training = self._begin(course)
            if state is not None:
                training.resume(state["training"])
                self._random.adopt(state["random"])
                state = None
            for batch in course.batches(self.assignment, self._bench, training.taken):
                if self._asked is not Action.CONTINUE:
                    return self._end_as_asked(course, training)
                if self._checkpoints.is_due(self._elapsed(), training.state_bytes):
                    self._save(training)
                training.step(batch)
                self._place.seen += batch.rows
                if milestone := course.milestones.get(training.taken):
                    report = self._report(course, training, milestone)
                    self._place.of_folds += [report] if course.fold is not None else []
                    yield report
                    if self._is_out_of_patience():
                        break
                else:
                    yield self._progress(training)
        if self._place.of_folds:
            yield self._mean_report(self._place.of_folds, training)
        return Ending.COMPLETED, ""

    def _resumed_state(self) -> Mapping[str, Any] | None:
        """Take the place of an earlier attempt's checkpoint and return the rest of it; None where there is none."""
        state = self._checkpoints.load() if self.assignment.attempt > 1 else None
        if state is None:
            return None
        seconds = self._elapsed()
        self._place = Place.from_state(state["place"])
        self._place.seconds += seconds
        self._resumed_examples = self._place.seen
        self._began_at = time.perf_counter()
        self._has_spoken()
        return state

    def _save(self, training: Optimization) -> None:
        """Write a checkpoint: between two steps, when all that was reported has been told."""
        place = replace(self._place, seconds=self._elapsed())
        state = {"seen": place.seen, "place": place.to_state(), "training": training.state()}
        self._checkpoints.save({**state, "random": self._random.current()}, self._elapsed())

    def _begin(self, course: Course) -> Optimization:
        """Put the model where every training starts, and build the optimizer over it."""
        bench, hyperparameters = self._bench, self._hyperparameters
        bench.model.reset(course.seed)
        bench.model.keep_layers(hyperparameters.kept_layers)
        bench.model.set_dropout(hyperparameters.dropout, hyperparameters.attention_dropout)
        bench.model.network.train()
        return Optimization(
            bench.model,
            bench.task,
            hyperparameters,
            total_steps=course.total_steps,
            precision=bench.precision,
            passes=bench.passes(hyperparameters),
        )

    def _report(self, course: Course, training: Optimization, milestone: Milestone) -> Report:
        """Evaluate at a milestone; keep the weights where the trial is the study's best so far."""
        bench, data = self._bench, course.data
        train_loss = training.mean_loss()
        with training.evaluating():
            validation = bench.score(data.validation, None if milestone.full else course.validation_part)
            _refuse_diverged(validation, training)
            scores_train = milestone.full or course.fold is not None
            train = bench.score(data.train, course.train_sample) if scores_train else None
        rows = course.rows.size
        report = Report(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            rung=milestone.rung,
            full=milestone.full,
            decides=self._may_decide(course, training),
            step=training.taken,
            epoch=examples_seen(training.taken, rows, self._hyperparameters.batch_size) / rows,
            examples_seen=self._place.seen,
            learning_rate=training.rate,
            train_loss=train_loss,
            validation=validation,
            train=train,
            seconds=self._elapsed(),
            peak_memory_bytes=peak_memory_bytes(bench.device),
        )
        training.forget_losses()
        self._has_spoken()
        if milestone.full:
            training.observe(validation.objective)
            self._remember(report, training)
        return report

    def _mean_report(self, of_folds: Sequence[Report], training: Optimization) -> Report:
        """Return the trial's one full report: the mean over its folds; the weights kept are those of the last."""
        train = [report.train for report in of_folds if report.train is not None]
        report = replace(
            of_folds[-1],
            rung=self.assignment.milestones[-1].rung,
            full=True,
            decides=False,
            train_loss=sum(report.train_loss for report in of_folds) / len(of_folds),
            validation=mean_scores([report.validation for report in of_folds]),
            train=mean_scores(train),
        )
        self._remember(report, training)
        return report

    def _progress(self, training: Optimization) -> Progress | None:
        """Say where the trial stands, about once a second."""
        passed = self._elapsed() - self._spoke_at
        if passed < SECONDS_BETWEEN_PROGRESS:
            return None
        progress = Progress(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            examples_seen=self._place.seen,
            examples_total=self._total,
            examples_per_second=(self._place.seen - self._spoke_of) / passed,
            learning_rate=training.rate,
            train_loss=training.mean_loss(),
        )
        self._has_spoken()
        return progress

    def _remember(self, report: Report, training: Optimization) -> None:
        """Count full reports without a better score; keep the best one, and its weights where they may win."""
        place, score = self._place, report.validation.objective
        place.reports_since_best += 1
        if place.best is None or score > place.best.validation.objective:
            place.best, place.reports_since_best = report, 0
            to_beat = self.assignment.score_to_beat
            if self._bench.files is not None and (to_beat is None or score > to_beat):
                with training.evaluating():
                    save_weights(self._bench.files, report.trial, training.parameters, _about(report))

    def _is_out_of_patience(self) -> bool:
        patience = self._hyperparameters.early_stopping_patience
        return patience is not None and self._place.reports_since_best >= patience

    def _may_decide(self, course: Course, training: Optimization) -> bool:
        """Return whether the trial has shown what it can, and something of it is left to give up."""
        ended = training.taken == training.total_steps
        if course.fold is not None:
            return ended and not course.last
        warmup = warmup_steps(self._hyperparameters, training.total_steps)
        return training.taken >= max(LEAST_STEPS_TO_DECIDE, warmup) and not ended

    def _end_as_asked(self, course: Course, training: Optimization) -> End:
        where = f"step {training.taken} of {training.total_steps}"
        if course.fold is not None:
            where = f"{where} of fold {course.fold + 1} of {len(self._bench.splits.folds)}"
        if self._asked is Action.PAUSE:
            self._save(training)
            return Ending.PAUSED, f"Paused after {where}."
        return Ending.PRUNED, f"Stopped after {where}."

    def _end_by(self, error: Exception) -> End:
        hyperparameters = self._hyperparameters
        if isinstance(error, Diverged):
            return Ending.DIVERGED, str(error)
        if is_out_of_memory(error):
            rows = self._bench.passes(hyperparameters).at_once(hyperparameters.batch_size)
            return Ending.INFEASIBLE, (
                f"Out of memory on {self._bench.device} with {rows} of a batch's {hyperparameters.batch_size} texts at "
                f"once, max_length {hyperparameters.max_length}."
            )
        told = str(error) if isinstance(error, HpoError) else f"{type(error).__name__}: {error}"
        return Ending.FAILED, " ".join(told.split())[:LONGEST_REASON]

    def _outcome(self, ending: Ending, reason: str) -> Outcome:
        # An optimizer and a half-done backward pass leave gradients behind, as large as the model.
        self._bench.model.network.zero_grad(set_to_none=True)
        if ending is Ending.INFEASIBLE and self._bench.device.type == "cuda":
            torch.cuda.empty_cache()
        if ending is not Ending.PAUSED:
            self._checkpoints.remove()
        return Outcome(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            ending=ending,
            best=self._place.best,
            seconds=self._place.seconds,
            resumed_examples=self._resumed_examples,
            rows_at_once=self._bench.passes(self._hyperparameters).rows,
            peak_memory_bytes=peak_memory_bytes(self._bench.device),
            reason=reason,
        )

    def _elapsed(self) -> float:
        """Return the seconds spent inside `advance` so far, the present call and earlier attempts among them."""
        return self._place.seconds + (time.perf_counter() - self._began_at)

    def _has_spoken(self) -> None:
        self._spoke_at, self._spoke_of = self._elapsed(), self._place.seen


def _refuse_diverged(scores: Scores, training: Optimization) -> None:
    if not math.isfinite(scores.values["loss"]):
        raise Diverged(f"The validation loss was no longer a number at step {training.taken}.")


def _about(report: Report) -> dict[str, str]:
    """Return what stands in the header of a file of weights."""
    return {
        "trial": str(report.trial),
        "attempt": str(report.attempt),
        "rung": str(report.rung),
        "metric": report.validation.metric,
        "score": repr(report.validation.objective),
    }
