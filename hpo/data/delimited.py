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
    return _read_delimited(path, max(",;\t", key=header.count), csv.QUOTE_MINIMAL)


def read_tsv(path: Path) -> Table:
    """Read a table whose cells are divided by tabs, quoted or not."""
    try:
        return _read_delimited(path, "\t", csv.QUOTE_MINIMAL)
    except DataError:  # many TSV files, GLUE's among them, were written without any quoting
        note = f"{path.name}: the quotation marks do not match in pairs, so they were read as plain characters."
        return _read_delimited(path, "\t", csv.QUOTE_NONE, (note,))


def _read_delimited(path: Path, delimiter: str, quoting: Quoting, notes: tuple[str, ...] = ()) -> Table:
    """Read rows of cells under a header line; blank lines are no rows."""
    names, rows = _delimited_rows(path, delimiter, quoting)
    if not names:
        raise DataError(f"{path} holds only blank lines.")
    position = {name: index for index, name in enumerate(names)}

    def column(name: str) -> Cells:
        index = position[name]
        return [row[index] if index < len(row) else None for row in rows]

    return Table(source=str(path), names=tuple(names), rows=len(rows), column=column, notes=notes)


def _delimited_rows(path: Path, delimiter: str, quoting: Quoting) -> tuple[list[str], list[list[str]]]:
    """Return the header's names and the rows below it."""
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
