"""Training plan: the rows, seeds and milestones of a trial, which trains once, or once for each fold."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpo.data.batching import Batch, Rows, training_batches
from hpo.data.stratify import class_count, stratified_prefix, stratified_sample
from hpo.messages import Assignment, Milestone
from hpo.training.context import TokenizedSplits, TrainingContext
from hpo.training.milestones import milestones_of, steps_per_epoch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldRun:
    """One training from the pretrained weights on: its rows, its seed, and where it is scored on what."""

    data: TokenizedSplits
    rows: Rows
    """Training rows it sees in each epoch."""
    train_sample: Rows
    """Those of them that are scored."""
    validation_part: Rows
    """Validation rows scored at a milestone that is not full; of a fold all that it left out."""
    milestones: dict[int, Milestone]
    """Optimizer step -> the milestone reached there."""
    total_steps: int
    seed: int
    """Of initialisation and data order."""
    fold: int | None
    """Which of several folds it is, from 0; None where there are none."""
    last: bool
    """Whether the trial ends with it."""

    def batches(self, assignment: Assignment, context: TrainingContext, taken: int = 0) -> Iterator[Batch]:
        """Return its batches in their order, augmented as the trial asks for, without the first `taken`."""
        hyperparameters, make_batch = assignment.hyperparameters, context.batch_maker(assignment.hyperparameters)
        first_epoch, begun = divmod(taken, steps_per_epoch(self.rows.size, hyperparameters.batch_size))
        for epoch in range(first_epoch, hyperparameters.epochs):
            chosen = training_batches(self.rows.size, hyperparameters.batch_size, self.seed, epoch)
            for number in range(begun if epoch == first_epoch else 0, len(chosen)):
                # From 1 on: numpy takes a 0 at the end for nothing, and that seed is the epoch's order.
                yield make_batch(self.rows[chosen[number]], [self.seed, epoch, number + 1])


def fold_runs(assignment: Assignment, context: TrainingContext) -> list[FoldRun]:
    """Return the trainings that a trial is made of: one, or one for each fold.

    Raises:
        ModelError: the model cannot read texts as long as the trial asks for.
    """
    splits = context.splits
    if not splits.folds:
        return [_fold_run(assignment, context, np.arange(splits.train.rows), context.validation_part, None)]
    return [
        _fold_run(assignment, context, fold.train, fold.validation, number) for number, fold in enumerate(splits.folds)
    ]


def _fold_run(
    assignment: Assignment, context: TrainingContext, rows: Rows, validation_part: Rows, fold: int | None
) -> FoldRun:
    hyperparameters, seed = assignment.hyperparameters, context.config.seed
    if hyperparameters.data_fraction < 1:
        # At least one row of each class; the same for every trial.
        strata = context.train_strata[rows]
        wanted = max(round(hyperparameters.data_fraction * rows.size), class_count(strata))
        rows = rows[stratified_prefix(strata, wanted, seed)]
    # No more than are scored of validation, so that the two scores are about as sure.
    scored = context.splits.validation.rows if fold is None else validation_part.size
    sample = min(context.config.evaluation.part_rows, scored)
    return FoldRun(
        data=context.tokenized(hyperparameters.max_length),
        rows=rows,
        train_sample=rows[stratified_sample(context.train_strata[rows], sample, seed)],
        validation_part=validation_part,
        milestones=milestones_of(assignment, rows.size, context.splits.train.rows, fold),
        total_steps=hyperparameters.epochs * steps_per_epoch(rows.size, hyperparameters.batch_size),
        seed=_fold_seed(assignment.seed, fold) if fold else assignment.seed,
        fold=fold,
        last=fold is None or fold == len(context.splits.folds) - 1,
    )


def _fold_seed(seed: int, fold: int) -> int:
    """Return the seed of a fold, so that folds of two trials' seeds share no run."""
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0] >> 1)
