"""Target types: what the cells of a label column mean in each task, and what rows are stratified by.

Torch-free, so that examples are read and divided where nothing is trained. Once a task has its targets as arrays,
`hpo.tasks` says what is learned from them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.data.label_sets import label_matrix, labels_in, replaced
from hpo.data.stratify import Strata, quantiles
from hpo.errors import DataError

LARGEST = 1e100
"""Beyond which a number is refused: its square, and sums of such, must be finite."""
MOST_SHOWN, MOST_CHARACTERS = 5, 60


def _one_replaced(cell: str, labels: Collection[str], others: Sequence[str]) -> str:
    return "".join(others) if cell in labels else cell


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetType:
    """How a task takes the cells of its label column."""

    labels_of: Callable[[str], tuple[str, ...]]
    """The labels that a cell names; each of them needs rows in training and in validation."""
    strata: Callable[[Sequence[str]], Strata]
    """What every split, sample and fold has its share of."""
    needs: str
    """What a column needs that holds one value only."""
    replaced: Callable[[str, Collection[str], Sequence[str]], str] = _one_replaced
    """A cell with some labels replaced by others; empty where no cell is left."""
    refuse: Callable[[Mapping[str, Sequence[str]]], None] = lambda _: None
    """Raises a DataError for all cells of all splits, by their names, that are none of the task's."""
    of_sets: bool = False
    """Whether a cell names any number of labels, as `hpo.data.label_sets` writes it."""

    def label_counts(self, cells: Sequence[str]) -> Counter[str]:
        """Return the rows of each label."""
        return Counter(label for cell in cells for label in self.labels_of(cell))


SINGLE_LABEL = TargetType(
    labels_of=lambda cell: (cell,),
    strata=lambda cells: np.unique(np.array(cells), return_inverse=True)[1],
    needs="classification needs two labels",
)


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


NUMBER = TargetType(
    labels_of=lambda _: (), strata=quantiles, needs="regression needs two numbers", refuse=_refuse_no_numbers
)
MULTI_LABEL = TargetType(
    labels_of=labels_in,
    strata=lambda cells: label_matrix(cells, sorted({label for cell in set(cells) for label in labels_in(cell)})),
    needs="multi-label classification needs rows that differ in it",
    replaced=replaced,
    of_sets=True,
)
TARGET_TYPES: Mapping[str, TargetType] = {
    "classification": SINGLE_LABEL,
    "regression": NUMBER,
    "multi_label": MULTI_LABEL,
}
"""Name of a task -> its target type."""
