"""Delimited text: CSV and TSV, rows of cells below a header line."""

import csv
import sys
from itertools import islice
from pathlib import Path
from typing import Literal

from hpo.data.readers.table import Cells, Table, as_unicode
from hpo.data.readers.text_files import open_text
from hpo.errors import DataError

Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE


DELIMITERS = ",;\t|"
TRIED_LINES = 50


def read_csv(path: Path, delimiter: str | None = None) -> Table:
    """Read a table with cells divided by `delimiter`; None detects it among `DELIMITERS`."""
    return _table(path, *_delimited_rows(path, delimiter or _delimiter(path), csv.QUOTE_MINIMAL))


def _delimiter(path: Path) -> str:
    """Return the delimiter that gives the header the most cells, preferably one for which all rows are as wide."""
    with open_text(path, newline="") as stream:
        lines = list(islice((line for line in stream if line.strip()), TRIED_LINES))
    csv.field_size_limit(sys.maxsize)
    cells = {one: len(next(csv.reader(lines[:1], delimiter=one), ())) for one in DELIMITERS}
    held = sorted((one for one in DELIMITERS if cells[one] > 1), key=lambda one: cells[one], reverse=True)
    fitting = held if len(held) == 1 else [one for one in held if _divides(lines, one)]
    return next(iter([*fitting, *held, ","]))


def _divides(lines: list[str], delimiter: str) -> bool:
    """Return true if the lines of a file, the last of which may be cut off, have equally many cells."""
    try:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error:
        return False
    return len(set(widths[:-1] or widths)) == 1


def read_tsv(path: Path) -> Table:
    """Read a table with cells divided by tabs, quoted or not.

    Many such files, GLUE's among them, were written without any quoting.
    """
    try:
        names, rows, lines = _delimited_rows(path, "\t", csv.QUOTE_MINIMAL)
        if not (_holds_lines(rows) and _every_line_is_a_row(path)):
            return _table(path, names, rows, lines)
        why = "would make one row of several"
    except DataError:
        why = "do not match in pairs"
    note = f"{path.name}: the quotation marks {why}, so they were read as plain characters."
    return _table(path, *_delimited_rows(path, "\t", csv.QUOTE_NONE), (note,))


def _holds_lines(rows: list[list[str]]) -> bool:
    return any("\n" in cell or "\r" in cell for row in rows for cell in row)


def _every_line_is_a_row(path: Path) -> bool:
    """Return true if each line, with quotation marks as plain characters, has a cell for each column."""
    try:
        names, rows, _ = _delimited_rows(path, "\t", csv.QUOTE_NONE)
    except DataError:
        return False
    return all(len(row) == len(names) for row in rows)


def _table(path: Path, names: list[str], rows: list[list[str]], lines: list[int], notes: tuple[str, ...] = ()) -> Table:
    """Return rows of cells, their column names and lines as a table."""
    if not names:
        raise DataError(f"{path} holds only blank lines.")
    position = {name: index for index, name in enumerate(names)}

    def column(name: str) -> Cells:
        index = position[name]
        return [row[index] if index < len(row) else None for row in rows]

    return Table(source=str(path), names=tuple(names), rows=len(rows), column=column, notes=notes, lines=lines)


def _delimited_rows(path: Path, delimiter: str, quoting: Quoting) -> tuple[list[str], list[list[str]], list[int]]:
    """Return the names in the header, the rows below it without blank lines, and the line at which each row begins."""
    csv.field_size_limit(sys.maxsize)
    names: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1
    with open_text(path, newline="") as stream:
        # Strict, because otherwise a quote that is never closed would silently swallow the rest of the file.
        reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            for row in reader:
                if not names:
                    # Lines before the header may contain spaces or empty cells.
                    names = [as_unicode(name.strip()) for name in row] if any(map(str.strip, row)) else []
                elif row:
                    _refuse_surplus_cells(path, line, len(names), row)
                    rows.append(row)
                    lines.append(line)
                line = reader.line_num + 1
        except csv.Error:
            raise DataError(
                f"{path}: the quotation marks of the row that starts at line {line} do not match in pairs; "
                "inside a quoted text, write each quotation mark twice."
            ) from None
    return names, rows, lines


def _refuse_surplus_cells(path: Path, line: int, width: int, row: list[str]) -> None:
    if len(row) > width and any(row[width:]):
        raise DataError(
            f"{path}, line {line}, has {len(row)} cells where the header names {width} columns; put a text "
            "that holds the separator into double quotes."
        )
