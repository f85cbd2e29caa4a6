"""Targets: what the cells of a label column mean in each task, and what rows are divided evenly by.

Torch-free, so that texts are read and divided where nothing is trained. Once a task has its targets as arrays,
`hpo.tasks` says what is learned from them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.data.label_sets import label_matrix, labels_in
from hpo.errors import DataError

MOST_QUANTILES, LEAST_ROWS_OF_A_QUANTILE = 10, 50
LARGEST = 1e100
"""Beyond which a number is refused: its square, and sums of such, must be finite."""
MOST_SHOWN, MOST_CHARACTERS = 5, 60

Strata = NDArray[np.int64]
"""The class of each row, shape (rows,); or where a row may be of several, counts of shape (rows, classes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """How a task takes the cells of its label column."""

    labels_of: Callable[[str], tuple[str, ...]]
    """The labels that a cell names; each of them needs rows in training and in validation."""
    strata: Callable[[Sequence[str]], Strata]
    """What every split, part and fold has its share of."""
    needs: str
    """What a column needs that holds one value only."""
    refuse: Callable[[Mapping[str, Sequence[str]]], None] = lambda _: None
    """Raises a DataError for all cells of all splits, by their names, that are none of the task's."""
    of_sets: bool = False
    """Whether a cell names any number of labels, as `hpo.data.label_sets` writes it."""


def _classes(cells: Sequence[str]) -> Strata:
    return np.unique(np.array(cells), return_inverse=True)[1]


ONE_LABEL = Targets(labels_of=lambda cell: (cell,), strata=_classes, needs="classification needs two labels")


def quantiles(numbers: Sequence[str] | NDArray[np.float64]) -> Strata:
    """Return the quantile that each row is in, of up to ten, each of at least fifty rows; equals go by their order."""
    values = np.array(numbers, dtype=np.float64)
    count = min(MOST_QUANTILES, max(1, len(values) // LEAST_ROWS_OF_A_QUANTILE))
    places: Strata = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(len(values)) * count // max(1, len(values))
    return places


def _refuse_no_numbers(cells: Mapping[str, Sequence[str]]) -> None:
    strange = {name: Counter(cell for cell in of_split if not _is_number(cell)) for name, of_split in cells.items()}
    told = [
        f"{name} has {', '.join(repr(cell[:MOST_CHARACTERS]) for cell in list(counts)[:MOST_SHOWN])}"
        f"{', ...' if len(counts) > MOST_SHOWN else ''} (rows: {counts.total():,})"
        for name, counts in strange.items()
        if counts
    ]
    if told:
        raise DataError(
            f"task.name is regression, which needs a number in each row of the label column, but "
            f"{' and '.join(told)}; mend these rows, or name another data.label_column."
        )
    train = cells["training"]
    if len({float(cell) for cell in train}) < 2:
        raise DataError(
            f"All {len(train):,} training rows have the number {train[0]}; regression needs two of them, so that there "
            "is something to learn."
        )


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) < LARGEST
    except ValueError:
        return False


NUMBER = Targets(
    labels_of=lambda _: (), strata=quantiles, needs="regression needs two numbers", refuse=_refuse_no_numbers
)


def _labels(cells: Sequence[str]) -> Strata:
    return label_matrix(cells, sorted({label for cell in set(cells) for label in labels_in(cell)}))


LABEL_SETS = Targets(
    labels_of=labels_in, strata=_labels, needs="multi-label classification needs rows that differ in it", of_sets=True
)

TARGETS: Mapping[str, Targets] = {"classification": ONE_LABEL, "regression": NUMBER, "multi_label": LABEL_SETS}
"""Name of a task -> its targets."""


def classes_among(strata: Strata) -> int:
    """Return of how many classes there are rows."""
    return len(np.unique(strata)) if strata.ndim == 1 else int((strata > 0).any(axis=0).sum())
