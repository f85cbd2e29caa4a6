"""How much of a score is the choice of rows: a jackknife that leaves out one group of rows at a time.

It asks nothing of a metric but that it can be computed on other rows, and is the same on every machine. Of two models
on the same rows it tells how much of their difference is the choice of rows, as both leave out the same groups.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MOST_GROUPS = 200


def leave_out_groups(units: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the number of the jackknife group that each row is in, from 0, at most `MOST_GROUPS` of like size.

    Args:
        units: what each row is left out together with, such as its document, from 0 without gaps; shape (rows,).
        seed: decides which units are together.
    """
    count = int(units.max()) + 1
    order = np.random.default_rng(seed).permutation(count)
    group: NDArray[np.int64] = (order % min(count, MOST_GROUPS))[units]
    return group


def deviations(score: Callable[[NDArray[np.bool_]], float], groups: NDArray[np.int64]) -> tuple[float, ...]:
    """Return how a score departs from its mean with each group left out, scaled so that squares add up to its variance.

    That of delete-a-group jackknife (Kott 2001): (G - 1) / G times the sum of squares over G groups.

    Args:
        score: what rows score, told by a mask of shape (rows,).
        groups: of each row, as `leave_out_groups` gives them.
    """
    without = np.array([score(groups != group) for group in range(int(groups.max()) + 1)])
    return tuple(scaled(without).tolist())


def scaled(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return deviations from the scores without each group, shape (..., groups)."""
    count = without.shape[-1]
    departs: NDArray[np.float64] = (without - without.mean(axis=-1, keepdims=True)) * ((count - 1) / count) ** 0.5
    return departs
