"""One reader for each file format: a file in, named columns of cells out."""

import csv
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO

from hpo.errors import DataError

Cells = list[object]
Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A file of named columns. Cells are strings, or any JSON value; None where a row has no such cell."""

    path: Path
    names: tuple[str, ...]
    rows: int
    column: Callable[[str], Cells]
    """From a name to its cells, one a row. Bytes that were not UTF-8 are lone surrogates in them."""
    notes: tuple[str, ...] = ()
    """How the file had to be read, where that was not the usual way."""


def read_table(path: Path, *, strict: bool) -> Table:
    """Read the file at `path` by its ending.

    Args:
        path: a file whose ending is one of `FORMATS`.
        strict: refuse bytes that are not UTF-8.

    Raises:
        DataError: no such file, another ending, nothing in it, or a row that cannot be read (with its line).
    """
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"Cannot tell the format of {path} by its ending; known are {', '.join(FORMATS)}.")
    try:
        _refuse_unreadable(path, strict=strict)
        table = reader(path)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from None
    if not table.rows:
        raise DataError(f"{path} names columns but holds no rows.")
    return table


def as_unicode(text: str) -> str:
    """Return `text` with every lone surrogate, which stands for a byte that was not UTF-8, made a U+FFFD."""
    return LONE_SURROGATE.sub("\ufffd", text)


def _refuse_unreadable(path: Path, *, strict: bool) -> None:
    with path.open("rb") as stream:
        start = stream.read(2)
        if not start:
            raise DataError(f"{path} is empty.")
        if start in UTF16_MARKS:
            raise DataError(f"{path} is UTF-16 text; save it as UTF-8.")
        if not strict:
            return
        stream.seek(0)
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                raise DataError(
                    f"{path}, line {number}, is not UTF-8; save the file as UTF-8, or leave out `strict` to "
                    "have such bytes replaced and counted."
                ) from None


def _opened(path: Path, newline: str) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _read_csv(path: Path) -> Table:
    with _opened(path, newline="") as stream:
        header = next((line for line in stream if line.strip()), "")
    return _read_delimited(path, max(",;\t", key=header.count), csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Table:
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
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} has more than one column {repeated[0]!r}; give each its own name.")
    position = {name: index for index, name in enumerate(names)}

    def column(name: str) -> Cells:
        index = position[name]
        return [row[index] if index < len(row) else None for row in rows]

    return Table(path=path, names=tuple(names), rows=len(rows), column=column, notes=notes)


def _delimited_rows(path: Path, delimiter: str, quoting: Quoting) -> tuple[list[str], list[list[str]]]:
    """Return the header's names and the rows below it."""
    csv.field_size_limit(sys.maxsize)
    names: list[str] = []
    rows: list[list[str]] = []
    line = 1
    with _opened(path, newline="") as stream:
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


def _read_jsonl(path: Path) -> Table:
    """Read one JSON object a line; an object without some key has None in that column."""
    # Not strict: raw tabs and other control characters inside strings are common and harmless.
    decode = json.JSONDecoder(strict=False).decode
    rows: list[dict[str, object]] = []
    # Lines end at \n alone: U+2028 and the like are ordinary characters inside a JSON string.
    with _opened(path, newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            if not line.isspace():
                rows.append(_json_object(path, number, line, decode))
    if not rows:
        raise DataError(f"{path} holds only blank lines.")
    keys = {as_unicode(key): key for key in dict.fromkeys(chain.from_iterable(rows))}
    return Table(
        path=path,
        names=tuple(keys),
        rows=len(rows),
        column=lambda name: [row.get(keys[name]) for row in rows],
    )


def _json_object(path: Path, number: int, line: str, decode: Callable[[str], object]) -> dict[str, object]:
    try:
        row = decode(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}, is not valid JSON: {error.msg.lower()} at character {error.colno}."
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}, line {number}, holds JSON that is nested too deeply or a number too long.") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}, must be one JSON object {{...}}, but is a {type(row).__name__}.")
    return row


FORMATS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}
