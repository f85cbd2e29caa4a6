"""Labelled texts from a file: the right columns, cleaned, every repair counted in a note for the user."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.data.columns import Columns, find_columns
from hpo.data.formats import Table, as_unicode, read_table
from hpo.errors import DataError

WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,18})\.0+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Labelled texts; the tuples are of one length."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    """The second text of each row; None where the task is not about pairs."""
    labels: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> "Examples":
        """Return the examples at `rows`, in that order."""
        return Examples(
            texts=tuple(self.texts[row] for row in rows),
            pairs=None if self.pairs is None else tuple(self.pairs[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What was read from one file."""

    examples: Examples
    columns: Columns
    notes: tuple[str, ...]
    """Sentences for the user: columns found, rows repaired and dropped."""


def read_examples(
    path: Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    strict: bool = False,
) -> Source:
    """Read a CSV, TSV or JSONL file of labelled texts.

    Labels become strings: whole numbers without a fraction (`1.0` is `1`), truth values as `true` and
    `false`. Rows without text or without label are dropped; bytes that are not UTF-8 and NUL characters are
    replaced.

    Args:
        path: the file; its ending tells the format.
        text_column: column of the text; found if None.
        text_pair_column: column of a second text.
        label_column: column of the label; found if None.
        strict: refuse bytes that are not UTF-8 instead of replacing them.

    Raises:
        DataError: the file, its columns or a row cannot be read, or no row is left.
    """
    table = read_table(path, strict=strict)
    columns = find_columns(table, text=text_column, pair=text_pair_column, label=label_column)
    examples, notes = _cleaned(table, columns)
    found = (_columns_note(path, columns),) if columns.detected else ()
    return Source(examples=examples, columns=columns, notes=(*found, *table.notes, *notes))


def _columns_note(path: Path, columns: Columns) -> str:
    texts = repr(columns.text) if columns.pair is None else f"{columns.text!r} and {columns.pair!r}"
    return f"{path.name}: text from column {texts}, label from column {columns.label!r} (detected)."


def _cleaned(table: Table, columns: Columns) -> tuple[Examples, list[str]]:
    """Return the rows that have text and label, and a note on each kind of repair."""
    repaired: set[int] = set()
    texts = _strings(table, columns.text, repaired)
    pairs = None if columns.pair is None else _strings(table, columns.pair, repaired)
    labels = [_label(label) for label in _strings(table, columns.label, repaired)]
    written = [not _is_blank(text) for text in texts]
    if pairs is not None:
        written = [known or not _is_blank(pair) for known, pair in zip(written, pairs, strict=True)]
    kept = [row for row, (known, label) in enumerate(zip(written, labels, strict=True)) if known and label]
    if not kept:
        raise DataError(
            f"No row of {table.path} has both a text (column {columns.text!r}) and a label (column {columns.label!r})."
        )
    blank = written.count(False)
    counted = {
        "rows with bytes that are not UTF-8 or with NUL characters, which were replaced (--strict refuses them)": len(
            repaired
        ),
        "rows dropped for having no text": blank,
        "rows dropped for having no label": table.rows - blank - len(kept),
    }
    notes = [f"{table.path.name}: {what}: {count:,}." for what, count in counted.items() if count]
    examples = Examples(texts=tuple(texts), pairs=None if pairs is None else tuple(pairs), labels=tuple(labels))
    return examples if len(kept) == table.rows else examples.take(kept), notes


def _strings(table: Table, name: str, repaired: set[int]) -> list[str]:
    """Return a column as Unicode text without NUL; the rows that were not are added to `repaired`."""
    strings = []
    for row, cell in enumerate(table.column(name)):
        if isinstance(cell, list | dict):
            raise DataError(
                f"Row {row + 1} of {table.path} holds a {type(cell).__name__} in column {name!r}; a text or "
                "a label is one value."
            )
        string = cell if isinstance(cell, str) else _written(cell)
        if not _is_sound(string):
            repaired.add(row)
            string = as_unicode(string).replace("\x00", " ")
        strings.append(string)
    return strings


def _is_sound(string: str) -> bool:
    try:
        return b"\x00" not in string.encode()
    except UnicodeEncodeError:
        return False


def _is_blank(string: str) -> bool:
    return not string or string.isspace()


def _written(value: object) -> str:
    """Return a JSON value as a string, empty where there is none."""
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case float() if math.isnan(value):
            return ""
        case None:
            return ""
        case _:
            return str(value)


def _label(string: str) -> str:
    """Write equal labels equally, whatever wrote the file: `1.0` as `1`, `True` as `true`."""
    label = string.strip()
    if whole := WHOLE_NUMBER.fullmatch(label):
        return whole[1]
    return label.lower() if label in ("True", "False", "TRUE", "FALSE") else label
