"""Training loop: one attempt at one trial, from its first step to its outcome."""

import logging
import math
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import PrunerName
from hpo.config.times import humanized
from hpo.distributed.rank_group import EndedOnOtherRank
from hpo.errors import error_line
from hpo.files.checkpoints import Checkpoints, State, TrialFiles
from hpo.files.weights import Weights
from hpo.memory import MicroBatch, OutOfMemoryInEvaluation, is_out_of_memory, peak_memory_bytes, release, reset_peak
from hpo.messages import Action, Assignment, Ending, HeldOutEvaluation, Milestone, Outcome, Progress, Report, Scores
from hpo.metrics.metric import Predictions
from hpo.model.randomness import RandomState
from hpo.model.trial_model import TrialModel
from hpo.training.context import TrainingContext
from hpo.training.gradients import SlotBatch
from hpo.training.milestones import examples_seen
from hpo.training.optimizer_step import Diverged, OptimizerStep
from hpo.training.run_state import FoldRun, RunState, circumstances_of, fold_runs, identity_of, load_alike, mean_report
from hpo.training.schedules import warmup_steps

SECONDS_BETWEEN_PROGRESS = 1.0
LEAST_STEPS_TO_PRUNE = 20

Message = Report | Progress | Outcome
End = tuple[Ending, str]

logger = logging.getLogger(__name__)


def steps_to_prune(pruner: PrunerName, hyperparameters: Hyperparameters, total_steps: int) -> int:
    """Return the steps after which a pruner may act: 20, and those of warm-up; none if it pauses trials first."""
    if pruner == "promotion":
        return 0
    return max(LEAST_STEPS_TO_PRUNE, warmup_steps(hyperparameters, total_steps))


class _Interrupted(Exception):
    """Raised when a decision arrives during an evaluation."""


class Run:
    """A trial in training: it yields messages, and requests the gradients of one batch after the other.

    The first `advance` prepares the trial and reports it; the answer to a `SlotBatch` is passed to the next `advance`,
    as the batch's mean loss.

    All randomness follows from the assignment's seed. The run sets torch's random state to its own while it computes,
    and restores it afterwards. So the same assignment gives the same bits on a CPU, whatever happens between two steps.

    Each rank of a group has the same run. Rank 0 sends the others what only it can know.
    """

    def __init__(self, assignment: Assignment, context: TrainingContext, clock: Callable[[], float]) -> None:
        """Prepare it at the first `advance`; `clock` returns the seconds spent in advancing runs."""
        self.assignment = assignment
        self._clock, self._began_at = clock, 0.0
        self._hyperparameters = assignment.hyperparameters
        self._micro_batch = context.gradients.micro_batch(assignment.hyperparameters)
        self._context = context
        self._rank_group = context.rank_group
        self._random = RandomState(assignment.seed, context.device, self._rank_group.rank)
        self._requested = Action.CONTINUE
        self._state = RunState(circumstances=circumstances_of(context))
        root = context.files_of(confirms=assignment.confirms is not None)
        self._checkpoints: Checkpoints | None = None
        self._weights: Weights | None = None
        """On rank 0 only."""
        if root is not None:
            files = TrialFiles(
                root=root,
                trial=assignment.trial,
                attempt=assignment.attempt,
                disk_gib=context.config.store.disk_gib,
                remote=context.remote,
            )
            self._checkpoints = Checkpoints(files, identity_of(assignment, context))
            self._weights = Weights(files) if self._rank_group.is_rank_0 else None
        self._fitted: NDArray[np.float64] | None = None
        self._resumed_examples, self._resumed_seconds = 0, 0.0
        self._model: TrialModel | None = None
        self._is_ready = self._is_out_of_memory = False
        self._noted_at, self._noted_seen = 0.0, 0
        self._total = 0
        self._micro_batch_at_first = MicroBatch()
        self._steps = self._train()

    def advance(self, answer: Tensor | Exception | None = None) -> Message | SlotBatch:
        """Return the next message, or the batch whose gradients are needed; must not be called after an `Outcome`.

        Args:
            answer: the mean loss of the requested batch, with its gradients computed, or the error that prevented it.
        """
        try:
            with self._random:
                return self._steps.throw(answer) if isinstance(answer, Exception) else self._steps.send(answer)
        except StopIteration as finished:
            end: End = finished.value
        except Exception as error:
            # Every error of a trial becomes an outcome; the search continues.
            logger.debug("Trial %d failed.", self.assignment.trial, exc_info=True)
            end = self._end_by(error)
        # Outside the handler: the error keeps its frames and their tensors alive.
        self._rank_group.end(*end)
        return self._outcome(*end)

    def decide(self, action: Action) -> None:
        """Apply a decision at the next step or evaluation batch; a stop or pause is never weakened by a later one."""
        if action is not Action.CONTINUE and self._requested is not Action.STOP:
            self._requested = action

    def close(self) -> None:
        """End the run without an outcome."""
        self._steps.close()
        self._rank_group.end(Ending.PAUSED, "The trial was dropped.")

    def _train(self) -> Generator[Message | SlotBatch, Any, End]:
        self._began_at = self._clock()
        reset_peak(self._context.device)
        self._micro_batch.lower(self.assignment.micro_batch_size)
        self._micro_batch_at_first = replace(self._micro_batch)
        plan = fold_runs(self.assignment, self._context)
        self._total = sum(self._hyperparameters.epochs * fold_run.rows.size for fold_run in plan)
        state = self._resumed_state()
        for number in range(self._state.fold_run, len(plan)):
            fold_run, self._state.fold_run = plan[number], number
            training = self._context.begin(
                self._hyperparameters, fold_run.seed, fold_run.total_steps, self._random, fold_run.fold
            )
            self._model = training.model
            if state is not None:
                training.resume(state["training"])
                self._micro_batch.rows = state["rows_at_once"] or self._micro_batch.rows
                self._random.adopt(state["random"])
                state = None
            end = yield from self._train_fold_run(fold_run, training)
            if end:
                return end
        if self._state.of_folds:
            report = mean_report(self._state.of_folds, self.assignment.milestones[-1].rung)
            # The weights are those of the last fold.
            self._remember(report, training)
            yield report
        return Ending.COMPLETED, ""

    def _train_fold_run(
        self, fold_run: FoldRun, training: OptimizerStep
    ) -> Generator[Message | SlotBatch, Any, End | None]:
        """Train until the fold run has ended (None is returned) or the trial has."""
        batches = fold_run.batches(self.assignment, self._context, training.taken)
        batch = next(batches, None)
        if not self._is_ready:
            self._is_ready = True
            yield self._progress(training)
        while True:
            if self._state.owes_report and (report := self._report(fold_run, training)):
                yield report
                if self._is_out_of_patience():
                    return None
            if batch is None and not self._state.owes_report:
                return None
            saves, end = self._rank_group.on_rank_0(partial(self._next, fold_run, training))
            if saves:
                self._save(training)
            if end:
                return end
            assert batch is not None, "what interrupts a report ends the trial"
            training.take((yield SlotBatch(model=training.model, batch=batch, units=batch.units)))
            self._state.seen += batch.rows
            self._state.owes_report = training.taken in fold_run.milestones
            if not self._state.owes_report and self._elapsed() - self._noted_at >= SECONDS_BETWEEN_PROGRESS:
                yield self._progress(training)
            batch = next(batches, None)

    def _save(self, training: OptimizerStep) -> None:
        """Write a checkpoint, on rank 0, with each rank's random state: between two steps, when all was reported."""
        of_ranks = self._rank_group.all_gather(training.model.random.current())
        if self._checkpoints and self._rank_group.is_rank_0:
            state = replace(self._state, seconds=self._elapsed())
            rest = {"training": training.state(), "random": of_ranks, "rows_at_once": self._micro_batch.rows}
            self._checkpoints.save({"seen": state.seen, "place": asdict(state), **rest}, state.seconds)

    def _resumed_state(self) -> State | None:
        """Restore the state from an earlier attempt's checkpoint and return its other content; None without one.

        Other files in the trial's folder are removed: they are of an earlier study with that name, or of an attempt
        that was further than its last checkpoint.
        """
        state = None
        if self._checkpoints and self.assignment.attempt > 1:
            state = load_alike(self._checkpoints, self._rank_group, self.assignment.trial)
        elif self._checkpoints and self._rank_group.is_rank_0:
            self._checkpoints.remove()
        if state is not None:
            self._state = RunState.from_state(state["place"])
            self._state.resume_under(circumstances_of(self._context))
            self._resumed_examples, self._resumed_seconds = self._state.seen, self._state.seconds
            self._note_message()
        if self._weights:
            self._weights.keep_only_of(self._state.best)
        return state

    def _report(self, fold_run: FoldRun, training: OptimizerStep) -> Report | None:
        """Evaluate at a milestone, and keep the weights if the trial is the study's best so far.

        None if a decision interrupted it: the report is then still to be made when the trial resumes.
        """
        milestone = fold_run.milestones[training.taken]
        report = self._rank_group.on_rank_0(partial(self._evaluated, fold_run, training, milestone))
        if report is None:
            return None
        self._state.owes_report = False
        training.forget_losses()
        self._note_message()
        if milestone.full:
            training.observe(report.validation.objective)
            self._remember(report, training)
        self._state.of_folds += [report] if fold_run.fold is not None else []
        return report

    def _evaluated(self, fold_run: FoldRun, training: OptimizerStep, milestone: Milestone) -> Report | None:
        context, data, check = self._context, fold_run.data, self._check_interrupted
        train_loss = training.mean_loss()
        try:
            with training.evaluating():
                rows = None if milestone.full else fold_run.validation_part
                answers = context.predict(data["validation"], rows, check, fold_run.fold)
                of_train = partial(context.predict, data["train"], fold_run.train_sample, check, fold_run.fold)
                self._fitted = context.fit(answers, of_train)
                answers = context.decided(answers, self._fitted)
                validation = context.task.scores(answers)
                if not math.isfinite(validation.values["loss"]):
                    raise Diverged(f"The validation loss was no longer a number at step {training.taken}.")
                is_judged = self._is_judged(fold_run, milestone, validation)
                held_out = self._held_out(fold_run, answers) if is_judged else None
                last = training.taken == training.total_steps
                scores_train = last or (milestone.full and self._state.would_be_best(validation))
                train = context.task.scores(context.decided(of_train(), self._fitted)) if scores_train else None
        except _Interrupted:
            return None
        return Report(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            rung=milestone.rung,
            full=milestone.full,
            decides=self._may_decide(fold_run, training),
            step=training.taken,
            epoch=examples_seen(training.taken, fold_run.rows.size, self._hyperparameters.batch_size)
            / fold_run.rows.size,
            examples_seen=self._state.seen,
            learning_rate=training.rate,
            train_loss=train_loss,
            validation=validation,
            train=train,
            held_out=held_out,
            seconds=self._elapsed(),
            peak_memory_bytes=peak_memory_bytes(context.device),
        )

    def _is_judged(self, fold_run: FoldRun, milestone: Milestone, validation: Scores) -> bool:
        """Return true if a held-out evaluation is due: in a confirmation run at a new best score, or in a fold."""
        is_best = fold_run.fold is not None or (milestone.full and self._state.would_be_best(validation))
        return self.assignment.confirms is not None and is_best

    def _held_out(self, fold_run: FoldRun, answers: Predictions) -> HeldOutEvaluation:
        """Evaluate on the rows that the search never saw, or, without such rows, on its validation rows."""
        context, kept = self._context, self._context.splits.confirmation
        if kept is not None:
            of_kept = context.predict(fold_run.data["confirmation"], check=self._check_interrupted)
            return context.held_out_evaluation(kept, context.decided(of_kept, self._fitted))
        rows = None if fold_run.fold is None else fold_run.validation_part
        return context.held_out_evaluation(context.splits.validation, answers, rows)

    def _check_interrupted(self) -> None:
        if self._requested is not Action.CONTINUE:
            raise _Interrupted

    def _progress(self, training: OptimizerStep) -> Progress:
        """Report the progress of the trial."""
        progress = Progress(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            examples_seen=self._state.seen,
            examples_total=self._total,
            examples_per_second=(self._state.seen - self._noted_seen) / (self._elapsed() - self._noted_at),
            learning_rate=training.rate,
            train_loss=training.mean_loss(),
            seconds=self._elapsed(),
        )
        self._note_message()
        return progress

    def _remember(self, report: Report, training: OptimizerStep) -> None:
        """Record a full report; keep the weights of a new best score if the trial may still win."""
        if not self._state.remember(report) or self._weights is None:
            return
        to_beat = self.assignment.score_to_beat
        if to_beat is None or report.validation.objective > to_beat:
            with training.evaluating():
                self._weights.keep(report, training.model.weights(), self._fitted)
        else:
            self._weights.remove()

    def _is_out_of_patience(self) -> bool:
        patience = self._hyperparameters.early_stopping_patience
        return patience is not None and self._state.reports_since_best >= patience

    def _may_decide(self, fold_run: FoldRun, training: OptimizerStep) -> bool:
        """Return true if the trial may be pruned here: warm-up (or fold) is over, and there is training to save."""
        ended = training.taken == training.total_steps
        if fold_run.fold is not None:
            return ended and not fold_run.last
        least = steps_to_prune(self._context.config.pruner, self._hyperparameters, training.total_steps)
        return training.taken >= least and not ended

    def _next(self, fold_run: FoldRun, training: OptimizerStep) -> tuple[bool, End | None]:
        """Return (true if a checkpoint is due, end of the trial if it must end now, else None)."""
        end = self._cut(fold_run, training)
        if end is not None:
            return end[0] is Ending.PAUSED, end
        is_due = self._checkpoints is not None and self._checkpoints.is_due(self._elapsed(), training.state_bytes)
        return is_due, None

    def _cut(self, fold_run: FoldRun, training: OptimizerStep) -> End | None:
        """Return the ending of a trial that was stopped or is out of time; None otherwise."""
        where = f"step {training.taken} of {training.total_steps}"
        if fold_run.fold is not None:
            where = f"{where} of fold {fold_run.fold + 1} of {len(self._context.splits.folds)}"
        if self._requested is Action.PAUSE:
            return Ending.PAUSED, f"At {where}."
        if self._requested is Action.STOP:
            return Ending.PRUNED, f"At {where}."
        limit = self.assignment.limit_seconds
        if limit is not None and self._elapsed() > limit:
            return Ending.INFEASIBLE, f"Over its limit of {humanized(limit)} after {where}."
        return None

    def _end_by(self, error: Exception) -> End:
        if isinstance(error, Diverged):
            return Ending.DIVERGED, str(error)
        end = Ending.FAILED, error_line(error)
        if isinstance(error, EndedOnOtherRank):
            end = error.ending, error.reason
        elif is_out_of_memory(error):
            self._is_out_of_memory = True
            end = Ending.INFEASIBLE, self._out_of_memory_reason(error)
        if end[0] is Ending.INFEASIBLE:
            self._micro_batch.restore(self._micro_batch_at_first)
        return end

    def _out_of_memory_reason(self, error: Exception) -> str:
        most, max_length = self._hyperparameters.batch_size, self._hyperparameters.max_length
        rows = self._micro_batch.at_once(self._rank_group.largest_shard(most))
        where = f"training with {rows} of a batch's {most} examples at once"
        if isinstance(error, OutOfMemoryInEvaluation):
            where = "evaluation with one example at a time"
        return f"Out of memory on {self._context.device} in {where}, max_length {max_length}."

    def _outcome(self, ending: Ending, reason: str) -> Outcome:
        if self._model:
            # An optimizer and an unfinished backward pass leave gradients behind, as large as the trained weights.
            self._model.forget_gradients()
        if ending is Ending.INFEASIBLE:
            release(self._context.device)
        for files in (self._checkpoints, self._weights):
            if files:
                files.release()
        rows = self._micro_batch.at_once(self._hyperparameters.batch_size)
        return Outcome(
            trial=self.assignment.trial,
            attempt=self.assignment.attempt,
            ending=ending,
            best=self._state.best,
            seconds=self._elapsed(),
            resumed_examples=self._resumed_examples,
            resumed_seconds=self._resumed_seconds,
            changes=tuple(self._state.changes),
            micro_batch_size=rows if rows < self._hyperparameters.batch_size else None,
            peak_memory_bytes=peak_memory_bytes(self._context.device),
            out_of_memory=self._is_out_of_memory,
            reason=reason,
        )

    def _elapsed(self) -> float:
        """Return the seconds in training so far, including earlier attempts."""
        return self._state.seconds + self._clock() - self._began_at

    def _note_message(self) -> None:
        self._noted_at, self._noted_seen = self._elapsed(), self._state.seen
