"""Label sets: the labels of each row, read from one column of them or from several columns of 0 and 1."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hpo.data.readers.table import Cells, Table
from hpo.errors import DataError, nearest

SHOWN_MISTAKES = 5
FLAGS = {"1": True, "0": False, "true": True, "false": False, "": False}
"""What stands in a column of 0 and 1 -> whether the row has its label."""

Spelling = Callable[[object], str]
"""From a single value to a label as it is written everywhere."""


def label_sets(table: Table, column: str, separator: str, spelled: Spelling) -> tuple[str, ...]:
    """Return the labels of each row as a JSON list of strings, sorted, each label once; `[]` of an empty cell.

    Args:
        table: of the examples.
        column: whose cells hold lists of labels, such lists in JSON, or labels divided by `separator`.
        separator: spaces around it are dropped.
        spelled: writes a value as a label.

    Raises:
        DataError: cells that are none of these, all of them told at once.
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
    """Return the labels that a cell names; None where it cannot be read."""
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
    """Return a table in which one column, whose name is returned too, holds the list of those of `names` that are 1.

    Raises:
        DataError: columns that are not there, or cells that are neither 0 nor 1, all of them told at once.
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
    joint = ", ".join(names)
    kept = (*(name for name in table.names if name not in names), joint)
    return replace(table, names=kept, column=lambda name: sets if name == joint else table.column(name)), joint


def _refuse(mistakes: Sequence[str], rule: str) -> None:
    if mistakes:
        more = len(mistakes) - SHOWN_MISTAKES
        shown = (*mistakes[:SHOWN_MISTAKES], *([f"{more:,} more do not"] if more > 0 else []))
        raise DataError(f"{rule}, but {', '.join(shown)}.")


def labels_in(cell: str) -> tuple[str, ...]:
    """Return the labels of what `label_sets` returns of a row."""
    return tuple(json.loads(cell))


def replaced(cell: str, labels: Collection[str], others: Sequence[str]) -> str:
    """Return the labels of a row without some, and where it had any of these with others in their place."""
    held = set(labels_in(cell))
    kept = held - set(labels) | (set() if held.isdisjoint(labels) else set(others))
    return json.dumps(sorted(kept), ensure_ascii=False)


def label_matrix(cells: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Return 1 where a row has a label and else 0, shape (rows, labels); `names` hold all labels of the rows."""
    number = {name: place for place, name in enumerate(names)}
    matrix = np.zeros((len(cells), len(names)), dtype=np.int64)
    for row, cell in enumerate(cells):
        matrix[row, [number[label] for label in labels_in(cell)]] = 1
    return matrix
