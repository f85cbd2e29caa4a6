"""Division of rows whose groups are to stay whole, as near to stratified as groups allow."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def group_numbers(groups: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each row's group, from 0; a row whose group is empty has a number of its own."""
    number: dict[object, int] = {}
    keys = (group or row for row, group in enumerate(groups))
    return np.fromiter((number.setdefault(key, len(number)) for key in keys), dtype=np.int64, count=len(groups))


def apportioned(
    strata: NDArray[np.int64], groups: NDArray[np.int64], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Give each group to one of several parts, so that each part has about its share of every class and of all rows.

    The groups go, largest first, each to the part where it adds least to the sum over parts of
    |what it has - its share|^2 / its share, over the classes and all rows: the rule of Webster and Sainte-Lague, which
    favours neither large parts nor small ones, in several dimensions. A class with as many groups left as there are
    parts without it goes to those parts.

    Args:
        strata: class of each row, from 0; or counts, shape (rows, classes), where it may be of several.
        groups: group of each row, from 0, no number left out.
        shares: of the parts, above 0, with sum 1.
        seed: decides among groups that are equal.

    Returns:
        The part of each row, a place within `shares`.
    """
    single = strata.ndim == 1
    counts = np.zeros((groups.max() + 1, strata.max() + 2 if single else strata.shape[1] + 1))
    np.add.at(counts[:, :-1], (groups, strata) if single else groups, 1 if single else strata)
    holds = counts[:, :-1] > 0
    counts[:, -1] = np.bincount(groups)
    weights = counts / np.maximum(counts.sum(axis=0), 1)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(counts))
    order = order[np.argsort(-counts[order, -1], kind="stable")]

    share = np.asarray(shares)[:, np.newaxis]
    deviation = np.repeat(-share, weights.shape[1], axis=1)
    lacking = np.ones((len(shares), holds.shape[1]), dtype=bool)
    left = holds.sum(axis=0)
    part_of_group = np.empty(len(counts), dtype=np.int64)
    for group in order:
        added = ((2 * deviation + weights[group]) * weights[group] / share).sum(axis=1)
        urgent = holds[group] & (left <= lacking.sum(axis=0))
        if urgent.any():
            added[~lacking[:, urgent].any(axis=1)] = np.inf
        # Rounded, so that equal parts stay equal where another processor sums in another order.
        part = np.argmin(added.round(9))
        part_of_group[group] = part
        deviation[part] += weights[group]
        lacking[part] &= ~holds[group]
        left -= holds[group]
    return part_of_group[groups]
