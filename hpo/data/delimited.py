"""Reads CSV and TSV: rows of cells under a header line."""

import csv
import sys
from pathlib import Path
from typing import Literal

from hpo.data.archives import open_text
from hpo.data.table import Cells, Table, as_unicode
from hpo.errors import DataError

Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE


def read_csv(path: Path) -> Table:
    """Read a table whose cells are divided by comma, semicolon or tab, whichever the header holds most of."""
    with open_text(path, newline="") as stream:
        header = next((line for line in stream if line.strip()), "")
    return _table(path, *_delimited_rows(path, max(",;\t", key=header.count), csv.QUOTE_MINIMAL))


def read_tsv(path: Path) -> Table:
    """Read a table whose cells are divided by tabs, quoted or not.

    Many such files, GLUE's among them, were written without any quoting.
    """
    try:
        names, rows = _delimited_rows(path, "\t", csv.QUOTE_MINIMAL)
        if not (_holds_lines(rows) and _every_line_is_a_row(path)):
            return _table(path, names, rows)
        why = "would make one row of several"
    except DataError:
        why = "do not match in pairs"
    note = f"{path.name}: the quotation marks {why}, so they were read as plain characters."
    return _table(path, *_delimited_rows(path, "\t", csv.QUOTE_NONE), (note,))


def _holds_lines(rows: list[list[str]]) -> bool:
    return any("\n" in cell or "\r" in cell for row in rows for cell in row)


def _every_line_is_a_row(path: Path) -> bool:
    """Return whether each line, quotation marks being plain characters, has a cell for each column."""
    try:
        names, rows = _delimited_rows(path, "\t", csv.QUOTE_NONE)
    except DataError:
        return False
    return all(len(row) == len(names) for row in rows)


def _table(path: Path, names: list[str], rows: list[list[str]], notes: tuple[str, ...] = ()) -> Table:
    """Return rows of cells under their names as a table."""
    if not names:
        raise DataError(f"{path} holds only blank lines.")
    position = {name: index for index, name in enumerate(names)}

    def column(name: str) -> Cells:
        index = position[name]
        return [row[index] if index < len(row) else None for row in rows]

    return Table(source=str(path), names=tuple(names), rows=len(rows), column=column, notes=notes)


def _delimited_rows(path: Path, delimiter: str, quoting: Quoting) -> tuple[list[str], list[list[str]]]:
    """Return the header's names and the rows below it; blank lines are no rows."""
    csv.field_size_limit(sys.maxsize)
    names: list[str] = []
    rows: list[list[str]] = []
    line = 1
    with open_text(path, newline="") as stream:
        # Strict, because a quote that is never closed would otherwise swallow the rest of the file unnoticed.
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if not names:
                    names = [as_unicode(name.strip()) for name in row]
                elif row:
                    _refuse_surplus_cells(path, line, len(names), row)
                    rows.append(row)
                line = reader.line_num + 1
        except csv.Error:
            raise DataError(
                f"{path}: the quotation marks of the row that starts at line {line} do not match in pairs; "
                "inside a quoted text, write each quotation mark twice."
            ) from None
    return names, rows


def _refuse_surplus_cells(path: Path, line: int, width: int, row: list[str]) -> None:
    if len(row) > width and any(row[width:]):
        raise DataError(
            f"{path}, line {line}, has {len(row)} cells where the header names {width} columns; put a text "
            "that holds the separator into double quotes."
        )
