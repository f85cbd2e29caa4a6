"""Groups: rows with one group or one text stay together, within a split and across splits."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpo.data.sources import Examples
from hpo.errors import DataError

Key = tuple[str, ...]


def group_numbers(groups: Sequence[str]) -> NDArray[np.int64]:
    """Return the number of each row's group, from 0; a row with an empty group gets a number of its own."""
    number: dict[object, int] = {}
    keys = (group or row for row, group in enumerate(groups))
    return np.fromiter((number.setdefault(key, len(number)) for key in keys), dtype=np.int64, count=len(groups))


def text_keys(examples: Examples) -> list[Key]:
    """Return the key by which two rows count as the same text: text and pair, ignoring whitespace and their order."""
    return [tuple(sorted(key)) for key in _ordered_keys(examples)]


def _ordered_keys(examples: Examples) -> list[Key]:
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    spaced = [[" ".join(text.split()) for text in column] for column in columns]
    return list(zip(*spaced, strict=True))


def remove_overlap(name: str, examples: Examples, others: Sequence[Examples], where: str) -> tuple[Examples, list[str]]:
    """Remove the rows whose text or group is in another split.

    Args:
        name: name of the split in a sentence, in lower case.
        examples: its rows.
        others: the splits that keep their rows.
        where: name of those in a sentence.

    Returns:
        The remaining rows, and a note on each reason for which rows were removed.

    Raises:
        DataError: no row remains.
    """
    if not others:
        return examples, []
    texts = {key for other in others for key in text_keys(other)}
    groups = {group for other in others for group in other.groups or () if group}
    repeated = [key in texts for key in text_keys(examples)]
    related = [group in groups for group in examples.groups or ("",) * examples.rows]
    kept = [row for row in range(examples.rows) if not repeated[row] and not related[row]]
    if not kept:
        raise DataError(
            f"No {name} row is left: each of its texts{' or groups' if groups else ''} is in another split as well."
        )
    counted = {"text": sum(repeated), "group": sum(related) - sum(map(min, repeated, related))}
    notes = [
        f"{name.capitalize()} rows removed because their {what} is in {where} as well: {count:,}."
        for what, count in counted.items()
        if count
    ]
    return (examples.take(kept) if notes else examples), notes


def repetition_notes(examples: Examples, word: str) -> list[str]:
    """Return a note on texts that occur more than once in training; they stay. `word` is the noun of a label."""
    labels: dict[Key, set[str]] = {}
    for key, label in zip(_ordered_keys(examples), examples.labels, strict=True):
        labels.setdefault(key, set()).add(label)
    notes = []
    if count := examples.rows - len(labels):
        notes.append(f"Training rows that repeat the text of an earlier one, and were kept: {count:,}.")
    if contradicted := sum(len(given) > 1 for given in labels.values()):
        notes.append(f"Training texts that occur with more than one {word}: {contradicted:,}.")
    return notes


def tied_rows(train: Examples) -> NDArray[np.int64]:
    """Return the number, from 0, of each row's component: rows connected by a group, a text, or a chain of these."""
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
