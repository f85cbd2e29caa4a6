"""Iterative stratification: rows of several labels each, in parts that each have their share of every label."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def iterative_parts(counts: NDArray[np.int64], sizes: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Divide rows of several labels among parts of given sizes.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011): label by label, the one with the fewest rows left
    first. But a row goes where all its labels, and not that one alone, add least to the sum over parts and labels of
    |what the part has - its share|^2 / its share: else frequent labels, whose rows have rarer ones too, stand a hundred
    rows beside their share in 100,000. A label with as many rows left as there are parts without it goes to those
    parts. Of parts that are equal the one with most room is taken.

    Args:
        counts: above 0 where a row has a label, shape (rows, labels).
        sizes: rows of each part; together all rows.
        seed: decides among rows of equal labels.

    Returns:
        The part of each row, a place within `sizes`; shape (rows,).
    """
    rows = len(counts)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(rows)
    # Every row has one more label, which is the last: so parts fill evenly.
    held = np.column_stack([counts[order] > 0, np.ones(rows, dtype=bool)])
    support = held.sum(axis=0)
    shares = np.maximum(np.outer(support, sizes) / max(rows, 1), np.finfo(np.float32).tiny)
    # Plain lists: in a loop over rows a cell of an array takes many times as long.
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
                in_need = [part for part in set[int]().union(*urgent) if room[part]]
                open_parts = in_need or [part for part, rows_left in enumerate(room) if rows_left]
                # Rounded, so that equal parts stay equal whatever they were summed in.
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


def rarest_labels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row the rarest of its labels, of equals the first, and the number of labels where it has none.

    Args:
        counts: above 0 where a row has a label, shape (rows, labels).
    """
    held = counts > 0
    support = held.sum(axis=0)
    labels = held.shape[1]
    rows = np.where(held, support, len(held) + 1)
    return np.where(held.any(axis=1), rows.argmin(axis=1) if labels else 0, labels)
