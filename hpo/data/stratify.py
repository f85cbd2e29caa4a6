"""Stratification: samples, prefixes and divisions of rows in which every class has its share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOST_QUANTILES, LEAST_ROWS_OF_A_QUANTILE = 10, 50

Strata = NDArray[np.int64]
"""Class of each row, shape (rows,); or, for rows with several classes, counts of shape (rows, classes)."""


def class_count(strata: Strata) -> int:
    """Return the number of classes that have rows."""
    return len(np.unique(strata)) if strata.ndim == 1 else int((strata > 0).any(axis=0).sum())


def quantiles(numbers: Sequence[str] | NDArray[np.float64]) -> Strata:
    """Return the quantile of each row, of up to ten with at least fifty rows each; equal values go by their order."""
    values = np.array(numbers, dtype=np.float64)
    count = min(MOST_QUANTILES, max(1, len(values) // LEAST_ROWS_OF_A_QUANTILE))
    places: Strata = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(len(values)) * count // max(1, len(values))
    return places


def stratified_sample(strata: Strata | Sequence[int], rows: int, seed: int) -> NDArray[np.int64]:
    """Choose rows so that the classes have the same shares as in all rows.

    Each class gets its exact share of `rows`, rounded by largest remainder, and at least one row if `rows` is enough
    for that. For rows with several classes, the shares are as close as `iterative_stratification` comes. Equal strata,
    rows and seed give an equal choice.

    Args:
        strata: of each row.
        rows: number to choose; all if there are no more.
        seed: 0 or more.

    Returns:
        Positions within `strata`, ascending; min(rows, len(strata)) of them.
    """
    classes = np.asarray(strata, dtype=np.int64)
    if rows >= len(classes):
        return np.arange(len(classes))
    if classes.ndim > 1:
        return np.flatnonzero(iterative_stratification(classes, [rows, len(classes) - rows], seed) == 0)
    _, members, counts = np.unique(classes, return_inverse=True, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(seed))
    chosen = [
        generator.permutation(np.flatnonzero(members == member))[:quota]
        for member, quota in enumerate(_quotas(counts, rows))
    ]
    rising: NDArray[np.int64] = np.sort(np.concatenate(chosen))
    return rising


def _quotas(counts: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Divide `rows`, fewer than the sum of `counts`, among classes of these sizes."""
    exact = counts * rows / counts.sum()
    least = 1 if rows >= counts.size else 0
    quotas: NDArray[np.int64] = np.maximum(np.floor(exact).astype(np.int64), least)
    for _ in range(rows - int(quotas.sum())):
        quotas[np.argmax(np.where(quotas < counts, exact - quotas, -np.inf))] += 1
    for _ in range(int(quotas.sum()) - rows):
        quotas[np.argmax(np.where(quotas > least, quotas - exact, -np.inf))] -= 1
    return quotas


def stratified_prefix(strata: Strata, rows: int, seed: int) -> NDArray[np.int64]:
    """Return positions within `strata`, ascending: the first `rows` of an order of which every prefix is stratified.

    The order depends on `seed` only. It begins with one row of each class. After that the i-th row of a class of n
    comes where (i + 1/2) / n of all rows have passed.

    Args:
        strata: of each row; a row with several classes counts as its rarest.
        rows: number to take, at most all.
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


def rarest_labels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rarest label of each row (of equally rare ones the first), or the number of labels if it has none.

    Args:
        counts: above 0 where a row has a label, shape (rows, labels).
    """
    held = counts > 0
    support = held.sum(axis=0)
    labels = held.shape[1]
    rows = np.where(held, support, len(held) + 1)
    return np.where(held.any(axis=1), rows.argmin(axis=1) if labels else 0, labels)


def iterative_stratification(counts: NDArray[np.int64], sizes: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Divide rows with several labels among parts of given sizes.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): label by label, beginning with the label that has
    the fewest rows left. One change: a row goes to the part where all its labels, not only that one, add least to the
    sum over parts and labels of |what the part has - its share|^2 / its share. Otherwise frequent labels, whose rows
    also have rarer ones, miss their share by a hundred rows in 100,000. If a label has as many rows left as there are
    parts without it, its rows go to those parts. Of equal parts, the one with most room is used.

    Args:
        counts: above 0 where a row has a label, shape (rows, labels).
        sizes: rows of each part; together all rows.
        seed: decides among rows with equal labels.

    Returns:
        The part of each row, an index into `sizes`; shape (rows,).
    """
    rows = len(counts)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(rows)
    # Every row gets one more label, the last, so that parts fill evenly.
    held = np.column_stack([counts[order] > 0, np.ones(rows, dtype=bool)])
    support = held.sum(axis=0)
    shares = np.maximum(np.outer(support, sizes) / max(rows, 1), np.finfo(np.float32).tiny)
    # Plain lists, because reading single cells of an array in a loop takes many times as long.
    gains, falls = (2 - 1 / shares).tolist(), (2 / shares).tolist()
    labels_of, rows_of = ([np.flatnonzero(one).tolist() for one in side] for side in (held, held.T))
    left, room, part_of = support.tolist(), list(sizes), [-1] * rows
    without = [set(range(len(sizes))) for _ in left]
    while any(left):
        label = min((one for one, count in enumerate(left) if count), key=left.__getitem__)
        for row in rows_of[label]:
            if part_of[row] < 0:
                summed = [sum(of_part) for of_part in zip(*(gains[one] for one in labels_of[row]), strict=True)]
                urgent = [without[one] for one in labels_of[row] if left[one] <= len(without[one])]
                lacking = [part for part in set[int]().union(*urgent) if room[part]]
                open_parts = lacking or [part for part, rows_left in enumerate(room) if rows_left]
                # Rounded, so that equal parts stay equal whatever the order of summation.
                part = max(open_parts, key=lambda one: (round(summed[one], 9), room[one]))
                part_of[row] = part
                room[part] -= 1
                for one in labels_of[row]:
                    gains[one][part] -= falls[one][part]
                    without[one].discard(part)
                    left[one] -= 1
    parts = np.empty(rows, dtype=np.int64)
    parts[order] = part_of
    return parts


def divide_groups(strata: Strata, groups: NDArray[np.int64], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Assign each group to one of several parts, so that each part has about its share of every class and of all rows.

    The largest groups go first, each to the part where it adds least to the sum over parts of |what it has - its
    share|^2 / its share, over the classes and all rows. This is the rule of Webster and Sainte-Lague, which favours
    neither large nor small parts, in several dimensions. If a class has as many groups left as there are parts without
    it, its groups go to those parts.

    Args:
        strata: class of each row, from 0; or counts, shape (rows, classes), for rows with several classes.
        groups: group of each row, from 0, no number left out.
        shares: of the parts, above 0, with sum 1.
        seed: decides among equal groups.

    Returns:
        The part of each row, an index into `shares`.
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
        # Rounded, so that equal parts stay equal on a processor that sums in another order.
        part = np.argmin(added.round(9))
        part_of_group[group] = part
        deviation[part] += weights[group]
        lacking[part] &= ~holds[group]
        left -= holds[group]
    return part_of_group[groups]
