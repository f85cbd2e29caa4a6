"""Labels: the meaning of a label column's cells in each task, including sets of labels, and labels in sentences.

Torch-free, so that examples can be read and divided where nothing is trained. `hpo.tasks` takes over once the targets
are arrays.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpo.data.readers.table import Cells, Table
from hpo.data.stratify import Strata, quantiles
from hpo.errors import DataError, nearest

SHOWN_MISTAKES = 5
FLAGS = {"1": True, "0": False, "true": True, "false": False, "": False}
"""Cells of a column of 0 and 1 -> whether the row has the label."""

Spelling = Callable[[object], str]
"""Function from a single value to the canonical form of a label."""
INTEGER = re.compile(r"-?[0-9]{1,18}")
SHOWN_LABELS = 10
SHOWN_CHARACTERS = 60
THOUSANDS_IN_POINTS = re.compile(r"[0-9]\.[0-9]{3},[0-9]")
"""Part of a number as 1.234,5, in whose column 1.000 is a thousand."""
LARGEST = 1e100
"""Largest absolute value of a number: its square, and sums of such squares, must be finite."""


def label_sets(table: Table, column: str, separator: str, spelled: Spelling) -> tuple[str, ...]:
    """Return the labels of each row as a JSON list of strings, sorted and without duplicates; `[]` for an empty cell.

    Args:
        table: of the examples.
        column: its cells are lists of labels, JSON lists, or labels divided by `separator`.
        separator: surrounding spaces are dropped.
        spelled: writes a value as a label.

    Raises:
        DataError: cells that are none of these, all in one message.
    """
    mistakes: list[str] = []

    def labels(row: int, cell: object) -> str:
        found = _named(cell, separator)
        if found is None or any(isinstance(one, list | dict) for one in found):
            mistakes.append(f"row {row + 1} holds {str(cell)[:60]!r}")
            return "[]"
        return json.dumps(sorted({spelled(one) for one in found} - {""}), ensure_ascii=False)

    read = tuple(labels(row, cell) for row, cell in enumerate(table.column(column)))
    _refuse(
        mistakes,
        f"Column {column!r} of {table.source} must hold the labels of a row divided by {separator!r} "
        '(data.label_separator), or a JSON list such as ["a", "b"]',
    )
    return read


def _named(cell: object, separator: str) -> list[object] | None:
    """Return the labels that a cell names; None if it cannot be read."""
    if not isinstance(cell, str):
        return cell if isinstance(cell, list) else None if isinstance(cell, dict) else [cell]
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [*text.split(separator)]
    try:
        return list(json.loads(text))
    except ValueError:
        return None


def joined_label_columns(table: Table, names: Sequence[str], spelled: Spelling) -> tuple[Table, str]:
    """Return a table with a new column, and that column's name: the list of those of `names` that are 1.

    Raises:
        DataError: columns that do not exist, or cells that are neither 0 nor 1, all in one message.
    """
    if missing := [name for name in names if name not in table.names]:
        raise DataError(
            f"{table.source} has no column {', '.join(map(repr, missing))}, which data.label_columns names. "
            f"{nearest(missing[0], table.names)}"
        )
    columns = {name: [spelled(cell).lower() for cell in table.column(name)] for name in names}
    mistakes = [
        f"row {row + 1} holds {cell[:60]!r} in {name!r}"
        for name, cells in columns.items()
        for row, cell in enumerate(cells)
        if cell not in FLAGS
    ]
    _refuse(mistakes, f"The columns of {table.source} that data.label_columns names must hold 0 or 1")
    sets: Cells = [[name for name in names if FLAGS[columns[name][row]]] for row in range(table.rows)]
    joint, notes = ", ".join(names), table.notes
    if unused := [name for name in names if not any(FLAGS[cell] for cell in columns[name])]:
        notes += (f"{table.called}: columns of data.label_columns without a 1: {', '.join(map(repr, unused))}.",)
    kept = (*(name for name in table.names if name not in names), joint)
    column = table.column
    return replace(table, names=kept, column=lambda name: sets if name == joint else column(name), notes=notes), joint


def _refuse(mistakes: Sequence[str], rule: str) -> None:
    if mistakes:
        more = len(mistakes) - SHOWN_MISTAKES
        shown = (*mistakes[:SHOWN_MISTAKES], *([f"{more:,} more do not"] if more > 0 else []))
        raise DataError(f"{rule}, but {', '.join(shown)}.")


def labels_in(cell: str) -> tuple[str, ...]:
    """Return the labels of one cell of `label_sets`."""
    return tuple(json.loads(cell))


def replaced(cell: str, labels: Collection[str], others: Sequence[str]) -> str:
    """Return the labels of a row without some; if it had any of these, `others` are added."""
    held = set(labels_in(cell))
    kept = held - set(labels) | (set() if held.isdisjoint(labels) else set(others))
    return json.dumps(sorted(kept), ensure_ascii=False)


def label_matrix(cells: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Return 1 where a row has a label and 0 elsewhere, shape (rows, labels); `names` are all labels of the rows."""
    number = {name: place for place, name in enumerate(names)}
    matrix = np.zeros((len(cells), len(names)), dtype=np.int64)
    for row, cell in enumerate(cells):
        matrix[row, [number[label] for label in labels_in(cell)]] = 1
    return matrix


def _one_replaced(cell: str, labels: Collection[str], others: Sequence[str]) -> str:
    return "".join(others) if cell in labels else cell


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetType:
    """Target type: how a task reads the cells of its label column."""

    labels_of: Callable[[str], tuple[str, ...]]
    """Return the labels that a cell names; each needs rows in training and in validation."""
    strata: Callable[[Sequence[str]], Strata]
    """Return the strata, of which every split, sample and fold gets its share."""
    needs: str
    """Remedy for a column with a single value, as in an error message."""
    word: str = "label"
    """Noun for the content of a cell, as in an error message."""
    replaced: Callable[[str, Collection[str], Sequence[str]], str] = _one_replaced
    """Return a cell with some labels replaced by others; empty if none is left."""
    refuse: Callable[[Mapping[str, Sequence[str]]], None] = lambda _: None
    """Raise a DataError for all cells of all splits, by name, that are invalid for the task."""
    of_sets: bool = False
    """True if a cell names any number of labels, in the form of `label_sets`."""

    def label_counts(self, cells: Sequence[str]) -> Counter[str]:
        """Return the rows of each label."""
        return Counter(label for cell in cells for label in self.labels_of(cell))


SINGLE_LABEL = TargetType(
    labels_of=lambda cell: (cell,),
    strata=lambda cells: np.unique(np.array(cells), return_inverse=True)[1],
    needs="classification needs two labels",
)


def _refuse_no_numbers(cells: Mapping[str, Sequence[str]]) -> None:
    invalid = {name: Counter(cell for cell in of_split if not _is_number(cell)) for name, of_split in cells.items()}
    listed = [
        f"{name} has {', '.join(repr(cell[:SHOWN_CHARACTERS]) for cell in list(counts)[:SHOWN_MISTAKES])}"
        f"{', ...' if len(counts) > SHOWN_MISTAKES else ''} (rows: {counts.total():,})"
        for name, counts in invalid.items()
        if counts
    ]
    if listed:
        points = any(THOUSANDS_IN_POINTS.search(cell) for counts in invalid.values() for cell in counts)
        remedy = "write every number with a decimal point alone (1.000 is read as 1)" if points else "mend these rows"
        raise DataError(
            f"task.name is regression, which needs a number such as -1234.5 in each row of the label column, but "
            f"{' and '.join(listed)}; {remedy}, or name another data.label_column."
        )
    train = cells["training"]
    # Squared, because differences whose square underflows to 0 leave no variance.
    if np.ptp([float(cell) for cell in train]) ** 2 == 0:
        raise DataError(
            f"All {len(train):,} training rows have the number {train[0]}, or almost; regression needs two of them, so "
            "that there is something to learn."
        )


def _is_number(cell: str) -> bool:
    try:
        return abs(float(cell)) < LARGEST
    except ValueError:
        return False


NUMBER = TargetType(
    labels_of=lambda _: (),
    strata=quantiles,
    needs="regression needs two numbers",
    word="number",
    refuse=_refuse_no_numbers,
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


def ordered_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return each label once: sorted as numbers if all are integers, else by name."""
    once = sorted(set(names))
    return tuple(sorted(once, key=int) if all(INTEGER.fullmatch(name) for name in once) else once)


def quoted(label: str) -> str:
    """Return a label, shortened if it is long, and quoted so that its control characters do not reach the terminal."""
    return repr(label[:SHOWN_CHARACTERS])


def listed_labels(names: Iterable[str]) -> str:
    """Return a few labels, each as `quoted`, for a message."""
    ordered = ordered_labels(names)
    shown = [quoted(name) for name in ordered[:SHOWN_LABELS]]
    more = len(ordered) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
