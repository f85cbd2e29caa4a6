"""Held-out evaluation: the final scores of a model, their jackknife, and scores of slices."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.data.groups import group_numbers
from hpo.messages import HeldOutEvaluation, Slice
from hpo.metrics.jackknife import deviations, leave_out_groups, scale
from hpo.metrics.metric import Predictions, mean_scores
from hpo.tasks.protocol import FastJackknife, Task

LEAST_SLICE_ROWS = 20
MOST_GROUPS = 20
PARTS_BY_LENGTH = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOutRows:
    """Properties of the rows of a held-out evaluation, other than their labels."""

    words: NDArray[np.int64]
    """Number of words of each text, shape (rows,)."""
    groups: Sequence[str]
    """Group of each row, shape (rows,); empty if there are none."""
    seed: int
    """Seed of the jackknife's groups."""
    longest: tuple[int, ...] = ()
    """Number of words of the longest text of each part by length; empty to compute it from these rows."""

    def take(self, rows: NDArray[np.int64]) -> "HeldOutRows":
        """Return the properties of some rows, with the parts by length of all rows."""
        groups = [self.groups[row] for row in rows] if self.groups else ()
        return HeldOutRows(words=self.words[rows], groups=groups, seed=self.seed, longest=self.parts_by_length())

    def parts_by_length(self) -> tuple[int, ...]:
        """Return the number of words of the longest text in each part; parts are about equally large."""
        shares = np.arange(1, PARTS_BY_LENGTH + 1) / PARTS_BY_LENGTH
        return self.longest or tuple(np.unique(np.quantile(self.words, shares, method="higher")).tolist())


def evaluate_held_out(task: Task[Any], predictions: Predictions, known: HeldOutRows) -> HeldOutEvaluation:
    """Evaluate predictions for held-out rows.

    Raises:
        TrainingError: the user's own metric fails on some of the rows.
    """
    units = _units(known, predictions.rows)
    groups = leave_out_groups(units, known.seed)
    if isinstance(task, FastJackknife):
        of_groups = tuple(scale(task.scores_without(predictions, groups)).tolist())
    else:
        of_groups = deviations(lambda kept: task.score(predictions.take(kept)), groups)
    return HeldOutEvaluation(
        scores=task.scores(predictions),
        deviations=of_groups,
        of_a_unit=_moved_by_a_row(task, predictions, groups) * len(units) / (int(units.max()) + 1),
        slices=tuple(_slices(task, predictions, known)),
    )


def _units(known: HeldOutRows, rows: int) -> NDArray[np.int64]:
    """Return the unit in which each row is left out: its group, if there are several."""
    units = group_numbers(known.groups) if known.groups else np.arange(rows)
    return units if units.max() > 0 else np.arange(rows)


def _moved_by_a_row(task: Task[Any], predictions: Predictions, groups: NDArray[np.int64]) -> float:
    """Return the average change of the score when the correct prediction of one row is flipped.

    Rows of a group are flipped together, because flipping them one by one would take long.
    """
    correct = predictions.correct
    if not correct.any():
        return 0.0
    score = task.score(predictions)
    flipped = (predictions.flipped((groups == group) & correct) for group in range(int(groups.max()) + 1))
    moved = sum(abs(task.score(other) - score) for other in flipped) / int(correct.sum())
    return moved if math.isfinite(moved) else 0.0


def mean_held_out(of_folds: Sequence[HeldOutEvaluation]) -> HeldOutEvaluation:
    """Return the evaluation of the mean over folds, each evaluated on rows of its own."""
    parts = len(of_folds)
    slices: dict[tuple[str, str], list[Slice]] = {}
    for one in (one for held_out in of_folds for one in held_out.slices):
        slices.setdefault((one.by, one.name), []).append(one)
    return HeldOutEvaluation(
        scores=mean_scores([held_out.scores for held_out in of_folds]),
        deviations=tuple(deviation / parts for held_out in of_folds for deviation in held_out.deviations),
        of_a_unit=fmean(held_out.of_a_unit for held_out in of_folds) / parts,
        slices=tuple(_pooled(same) for same in slices.values()),
    )


def _slices(task: Task[Any], predictions: Predictions, known: HeldOutRows) -> Iterator[Slice]:
    for by, name, rows in (*_by_length(known), *_by_group(known.groups)):
        if len(rows) >= LEAST_SLICE_ROWS:
            yield Slice(by=by, name=name, rows=len(rows), score=task.slice_score(predictions.take(rows)))


def _by_length(known: HeldOutRows) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """Yield the rows in parts, from the shortest texts to the longest."""
    start = 0
    for end in known.parts_by_length():
        yield "length", f"{start} to {end} words", np.flatnonzero((known.words >= start) & (known.words <= end))
        start = end + 1


def _by_group(groups: Sequence[str]) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """Yield the rows of the largest groups with a name."""
    largest = Counter(name for name in groups if name).most_common(MOST_GROUPS)
    of_row = np.array(groups, dtype=object)
    for name, _ in largest:
        yield "group", name, np.flatnonzero(of_row == name)


def _pooled(same: Sequence[Slice]) -> Slice:
    rows = sum(one.rows for one in same)
    return Slice(by=same[0].by, name=same[0].name, rows=rows, score=sum(one.rows * one.score for one in same) / rows)
