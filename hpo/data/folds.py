"""Cross-validation folds: parts of the training rows, each validation once and training the other times."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.data.groups import tied_rows
from hpo.data.label_checks import refuse_rare_classes
from hpo.data.labels import SINGLE_LABEL, TargetType, listed_labels
from hpo.data.sources import Examples
from hpo.data.stratify import Strata, divide_groups, iterative_stratification
from hpo.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Positions within the training rows, rising."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def make_folds(train: Examples, folds: int, seed: int, kind: TargetType = SINGLE_LABEL) -> tuple[Fold, ...]:
    """Make stratified folds; rows of one group, and rows of one text, are in the same fold.

    Args:
        train: rows of two targets or more.
        folds: how many, 2 or more.
        seed: decides which rows are in which fold.
        kind: the type of the label column.

    Returns:
        That many; each row is in the validation of one, and in the training of the others.

    Raises:
        DataError: a fold could not be trained or scored on.
    """
    purpose, remedy = ", one of them for each of evaluation.folds", "lower evaluation.folds, "
    refuse_rare_classes(train, kind, folds, purpose, remedy)
    units = tied_rows(train)
    if (count := int(units.max()) + 1) < folds:
        raise DataError(
            f"evaluation.folds is {folds}, but rows that stay together (of one group, or of one text) leave only "
            f"{count:,} parts to make folds of; lower evaluation.folds, or add examples of other groups."
        )
    part = _parts(kind.strata(train.labels), units, folds, seed)
    made = tuple(Fold(train=np.flatnonzero(part != i), validation=np.flatnonzero(part == i)) for i in range(folds))
    for number, fold in enumerate(made, 1):
        _refuse_unfit_fold(train, fold, number, kind)
    return made


def _parts(strata: Strata, units: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each row."""
    if units.max() + 1 < units.size:
        return divide_groups(strata, units, [1 / folds] * folds, seed)
    if strata.ndim > 1:
        sizes = [len(part) for part in np.array_split(np.arange(units.size), folds)]
        return iterative_stratification(strata, sizes, seed)
    # Not at the top: every worker process would import it, and none makes folds.
    from sklearn.model_selection import StratifiedKFold

    parts = np.empty(units.size, dtype=np.int64)
    for fold, (_, rows) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(units, strata)):
        parts[rows] = fold
    return parts


def _refuse_unfit_fold(train: Examples, fold: Fold, number: int, kind: TargetType) -> None:
    """Refuse a fold that cannot be scored, as all its rows have one label, or trained, as it has all rows of one."""
    trained, scored = (train.take(rows.tolist()).labels for rows in (fold.train, fold.validation))
    if len(set(scored)) < 2:
        raise DataError(
            f"Fold {number} has {len(scored):,} rows, all of the label {listed_labels(set(scored))}, so it could not "
            "be scored on; lower evaluation.folds, or add examples of other groups."
        )
    counts = kind.label_counts(scored)
    if untrained := counts.keys() - kind.label_counts(trained).keys():
        rows = sum(counts[label] for label in untrained)
        raise DataError(
            f"Fold {number} has every row of {listed_labels(untrained)} (rows: {rows:,}), as rows of one group or text "
            "stay together, so nothing of it is left to train on; add such examples of other groups, or leave the "
            "label out."
        )
