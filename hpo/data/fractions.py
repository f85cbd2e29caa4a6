"""Parts of the training rows, each holding every smaller one: what a curve over the amount of data is made of."""

import numpy as np
from numpy.typing import NDArray

from hpo.data.stratify import rarest_labels
from hpo.data.targets import Strata


def stratified_beginning(strata: Strata, rows: int, seed: int) -> NDArray[np.int64]:
    """Return positions within `strata`, rising: the first `rows` of an order whose every beginning is stratified.

    The order, which follows from `seed` alone, begins with one row of each class. After that the i-th row of a class
    of n stands where (i + 1/2) / n of all rows have passed.

    Args:
        strata: of each row; where it may be of several classes it goes by the rarest.
        rows: how many to take, at most all.
        seed: 0 or more.
    """
    labels = strata if strata.ndim == 1 else rarest_labels(strata)
    shuffled = np.random.Generator(np.random.PCG64(seed)).permutation(labels.size)
    _, members, counts = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    place = np.empty(labels.size)
    for member, count in enumerate(counts):
        place[members == member] = (np.arange(count) + 0.5) / count
        place[np.argmax(members == member)] = 0.0
    order: NDArray[np.int64] = shuffled[np.argsort(place, kind="stable")]
    return np.sort(order[:rows])
