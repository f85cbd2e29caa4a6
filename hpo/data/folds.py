"""Folds of the training rows: each is validation once, and training the other times."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.data.apart import text_keys
from hpo.data.checks import LEAVE_OUT, listed_labels
from hpo.data.groups import apportioned
from hpo.data.sources import Examples
from hpo.data.stratify import iterative_parts
from hpo.data.targets import ONE_LABEL, Strata, Targets
from hpo.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Positions within the training rows, rising."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def make_folds(train: Examples, folds: int, seed: int, targets: Targets = ONE_LABEL) -> tuple[Fold, ...]:
    """Make stratified folds; rows of one group, and rows of one text, are in the same fold.

    Args:
        train: rows of two targets or more.
        folds: how many, 2 or more.
        seed: decides which rows are in which fold.
        targets: how the task takes the label column.

    Returns:
        That many; each row is in the validation of one, and in the training of the others.

    Raises:
        DataError: a fold could not be trained or scored on.
    """
    _refuse_rare_classes(train, folds, targets)
    units = _units(train)
    _refuse_few_units(int(units.max()) + 1, folds)
    parts = _parts(targets.strata(train.labels), units, folds, seed)
    made = tuple(
        Fold(train=np.flatnonzero(parts != fold), validation=np.flatnonzero(parts == fold)) for fold in range(folds)
    )
    for number, fold in enumerate(made, 1):
        _refuse_one_class(train, fold, number)
        _refuse_untrained_class(train, fold, number, targets)
    return made


def _parts(strata: Strata, units: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each row."""
    if units.max() + 1 < units.size:
        return apportioned(strata, units, [1 / folds] * folds, seed)
    if strata.ndim > 1:
        sizes = [len(part) for part in np.array_split(np.arange(units.size), folds)]
        return iterative_parts(strata, sizes, seed)
    # Not at the top: every worker process would import it, and none makes folds.
    from sklearn.model_selection import StratifiedKFold

    parts = np.empty(units.size, dtype=np.int64)
    for fold, (_, rows) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(units, strata)):
        parts[rows] = fold
    return parts


def _units(train: Examples) -> NDArray[np.int64]:
    """Return the number, from 0, of what each row is part of: rows tied by a group, a text, or a chain of these."""
    parent = list(range(train.rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[object, int] = {}
    groups = train.groups or ("",) * train.rows
    for row, (key, group) in enumerate(zip(text_keys(train), groups, strict=True)):
        for tie in (key, group) if group else (key,):
            parent[root(row)] = root(first.setdefault(tie, row))
    return np.unique([root(row) for row in range(train.rows)], return_inverse=True)[1]


def _refuse_rare_classes(train: Examples, folds: int, targets: Targets) -> None:
    counts = train.counted(targets.labels_of)
    rare = [label for label, count in counts.items() if count < folds]
    if rare:
        fewest = min(rare, key=lambda label: (counts[label], label))
        raise DataError(
            f"Every label needs at least {folds} rows, one for each of evaluation.folds, but there are fewer of "
            f"{listed_labels(rare)} ({counts[fewest]:,} of {listed_labels([fewest])}); lower evaluation.folds, "
            f"{LEAVE_OUT}."
        )


def _refuse_few_units(units: int, folds: int) -> None:
    if units < folds:
        raise DataError(
            f"evaluation.folds is {folds}, but rows that stay together (of one group, or of one text) leave only "
            f"{units:,} parts to make folds of; lower evaluation.folds, or add texts of other groups."
        )


def _refuse_one_class(train: Examples, fold: Fold, number: int) -> None:
    names = {train.labels[row] for row in fold.validation}
    if len(names) < 2:
        raise DataError(
            f"Fold {number} has {fold.validation.size:,} rows, all of the label {listed_labels(names)}, so it could "
            "not be scored on; lower evaluation.folds, or add texts of other groups."
        )


def _refuse_untrained_class(train: Examples, fold: Fold, number: int, targets: Targets) -> None:
    trained, scored = (train.take(rows.tolist()).counted(targets.labels_of) for rows in (fold.train, fold.validation))
    untrained = Counter({label: count for label, count in scored.items() if label not in trained})
    if untrained:
        raise DataError(
            f"Fold {number} has every row of {listed_labels(untrained)} (rows: {untrained.total():,}), as rows of one "
            "group or text stay together, so nothing of it is left to train on; add such texts of other groups, or "
            "leave the label out."
        )
