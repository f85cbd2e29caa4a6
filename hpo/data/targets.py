"""Targets: what the cells of a label column mean in each task, and what rows are divided evenly by.

Torch-free, so that texts are read and divided where nothing is trained. Once a task has its targets as arrays,
`hpo.tasks` says what is learned from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def _classes(cells: Sequence[str]) -> Strata:
    return np.unique(np.array(cells), return_inverse=True)[1]


ONE_LABEL = Targets(labels_of=lambda cell: (cell,), strata=_classes, needs="classification needs two labels")

TARGETS: Mapping[str, Targets] = {"classification": ONE_LABEL}
"""Name of a task -> its targets."""


def classes_among(strata: Strata) -> int:
    """Return of how many classes there are rows."""
    return len(np.unique(strata)) if strata.ndim == 1 else int((strata > 0).any(axis=0).sum())
