"""Milestones: the optimizer steps at which a trial reaches rungs, in per mille of the longest trial's examples."""

import math
from collections.abc import Iterable
from dataclasses import replace

from hpo.messages import Assignment, Milestone


def steps_per_epoch(train_rows: int, batch_size: int) -> int:
    """Return the optimizer steps of one pass; the last batch of a pass may be smaller."""
    return math.ceil(train_rows / batch_size)


def examples_seen(step: int, train_rows: int, batch_size: int) -> int:
    """Return the number of examples seen after `step` optimizer steps."""
    epochs, rest = divmod(step, steps_per_epoch(train_rows, batch_size))
    return epochs * train_rows + rest * batch_size


def milestone_steps(
    milestones: Iterable[Milestone], *, maximum_examples: float, train_rows: int, batch_size: int, epochs: int
) -> dict[int, Milestone]:
    """Return step -> the milestone reached there, ascending.

    A milestone of rung r is reached at the first step at which `examples_seen * 1000 >= r * maximum_examples`, never
    beyond the trial's last step; the last milestone is exactly at the last step. Several milestones at one step are one
    evaluation: full if one of them is full, and at the last of the study's common rungs if one of them is common.

    Args:
        milestones: of the trial, ascending by rung.
        maximum_examples: examples that the study's longest trial sees.
        train_rows: rows that this trial trains on in each epoch.
        batch_size: of this trial.
        epochs: of this trial.
    """
    total = epochs * steps_per_epoch(train_rows, batch_size)
    *earlier, last = milestones
    places: dict[int, Milestone] = {}
    # Common rungs are not full, and come last.
    for one in sorted(earlier, key=lambda one: (not one.full, one.rung)):
        step = min(_step_at(one.rung * maximum_examples, train_rows, batch_size), total)
        places[step] = replace(one, full=one.full or (step in places and places[step].full))
    return dict(sorted((places | {total: last}).items()))


def milestones_of(assignment: Assignment, rows: int, all_rows: int, fold: int | None = None) -> dict[int, Milestone]:
    """Return step -> milestone of one training on part of the rows; for a fold only its end.

    Args:
        assignment: of the trial.
        rows: number of rows that this training sees in each epoch.
        all_rows: number that the study's longest trial sees in each epoch.
        fold: number of the fold that it trains; None without folds.
    """
    hyperparameters = assignment.hyperparameters
    epochs, batch_size = hyperparameters.epochs, hyperparameters.batch_size
    if fold is not None:
        return {epochs * steps_per_epoch(rows, batch_size): assignment.milestones[fold]}
    most = assignment.maximum_passes * all_rows
    return milestone_steps(
        assignment.milestones, maximum_examples=most, train_rows=rows, batch_size=batch_size, epochs=epochs
    )


def _step_at(example_mille: float, train_rows: int, batch_size: int) -> int:
    """Return the first step at which a thousand times the examples seen is at least `example_mille`."""
    # Products of fractions differ from whole numbers by rounding.
    epochs, rest = divmod(math.ceil(example_mille / 1000 - 1e-6), train_rows)
    return epochs * steps_per_epoch(train_rows, batch_size) + math.ceil(rest / batch_size)
