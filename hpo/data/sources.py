"""Examples: rows of a source as text and label, cleaned, with a note on every repair for the user."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from hpo.config.study_file import DataConfig
from hpo.data.columns import Columns, find_columns, refuse_missing_texts
from hpo.data.labels import joined_label_columns, label_sets
from hpo.data.readers.hub import SplitName
from hpo.data.readers.locations import read_source
from hpo.data.readers.table import Cells, Table, as_unicode
from hpo.errors import DataError

WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,18})\.0+")
REPAIRED = "rows with bytes that are not UTF-8 or with NUL characters, which were replaced (--strict refuses them)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Labelled examples; the tuples are of one length."""

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    """Second text of each row; None if the task is not about pairs."""
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    """Group of each row; rows of one group belong together, and a row with an empty group is independent. None if all
    are."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> "Examples":
        """Return the examples at `rows`, in that order."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Examples(**{name: cells and tuple(cells[row] for row in rows) for name, cells in columns.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Examples read from one source."""

    examples: Examples
    columns: Columns
    notes: tuple[str, ...]
    """Sentences for the user: columns found, rows repaired and dropped."""
    warnings: tuple[str, ...] = ()
    """Those of `notes` on rows that were repaired or dropped."""


def read_examples(
    source: str, role: SplitName, config: DataConfig, *, of_sets: bool = False, known: Columns | None = None
) -> Source:
    """Read labelled examples from a file, a pattern of files, a saved folder or the hub.

    Labels and groups become strings: whole numbers without a fraction (`1.0` is `1`), truth values as `true` and
    `false`. Rows without text or without label are dropped; bytes that are not UTF-8 and NUL characters are replaced.

    Args:
        source: as in `read_source`.
        role: the split to read if the source has several.
        config: columns and reading options; its sources are not used.
        of_sets: True if a row may have several labels: then its label has the form of `label_sets`, and a row without
            any stays.
        known: columns of the training rows, if those were read before.

    Raises:
        DataError: the source, its columns or a row cannot be read, or no row is left.
    """
    table = read_source(source, role, strict=config.strict, delimiter=config.delimiter)
    text, pair, label = config.text_column, config.text_pair_column, config.label_column
    if known is not None:
        text, pair, label = known.text, known.pair, known.label
    if config.label_columns:
        _refuse_second_role(config)
        table, label = joined_label_columns(table, config.label_columns, _spelled)
    columns = find_columns(table, text=text, pair=pair, label=label, group=config.group_column)
    examples, warnings = _cleaned(table, columns, config.label_separator if of_sets else None, strict=config.strict)
    notes = [*([_columns_note(table, columns)] if columns.detected else ()), *table.notes, *warnings]
    if alone := (examples.groups or ()).count(""):
        group = f"a group (column {columns.group!r})"
        notes.append(f"{table.called}: rows without {group}, each of which stands alone: {alone:,}.")
    return Source(examples=examples, columns=columns, notes=tuple(notes), warnings=tuple(warnings))


def _refuse_second_role(config: DataConfig) -> None:
    """Refuse a label column beside `data.label_columns`, and another role for one of these."""
    keys = [key for key in ("text_column", "text_pair_column", "group_column") if getattr(config, key)]
    mistakes = [
        f"Column {getattr(config, key)!r} is named by data.label_columns and by data.{key}; name another."
        for key in keys
        if getattr(config, key) in config.label_columns
    ]
    if config.label_column is not None:
        mistakes.append("data.label_column and data.label_columns are two ways to name the labels; leave one out.")
    if mistakes:
        raise DataError(*mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlabelledExamples:
    """Texts of a source, without labels."""

    table: Table
    texts: tuple[str, ...]
    """One for each row of the table."""
    pairs: tuple[str, ...] | None
    written: list[int]
    """Rows that have a text, ascending."""
    notes: tuple[str, ...]


def read_texts(source: str, role: SplitName, config: DataConfig) -> UnlabelledExamples:
    """Read texts as `read_examples` does, whether or not they have labels; no row is dropped.

    Other columns with cells other than strings and numbers, such as images, are left out.

    Raises:
        DataError: the source or a row cannot be read, a column does not exist, or no row has a text.
    """
    assert config.text_column is not None, "it is known where training had its texts"
    table = read_source(source, role, strict=config.strict, delimiter=config.delimiter)
    refuse_missing_texts(table, config.text_column, config.text_pair_column)
    names = [name for name in (config.text_column, config.text_pair_column) if name is not None]
    table = _readable(table, names)
    repaired: set[int] = set()
    sides = [tuple(_strings(table, name, repaired)) for name in names]
    _refuse_repaired(table, repaired, strict=config.strict)
    written = _with_text(*sides)
    if not written:
        raise DataError(f"No row of {table.source} has a text (column {' or '.join(map(repr, names))}).")
    counted = {
        REPAIRED: sorted(repaired),
        "rows without a text, which have no prediction": sorted({*range(table.rows)}.difference(written)),
    }
    return UnlabelledExamples(
        table=table,
        texts=sides[0],
        pairs=sides[1] if len(sides) > 1 else None,
        written=written,
        notes=(*table.notes, *_counted(table, counted)),
    )


def _readable(table: Table, needed: Collection[str]) -> Table:
    """Return a table without the columns that cannot be read, except those that are `needed`."""
    cells: dict[str, Cells] = {}
    notes = []
    for name in table.names:
        try:
            cells[name] = table.column(name)
        except DataError as error:
            if name in needed:
                raise
            notes.append(f"{str(error).partition(';')[0]}, and is left out.")
    return replace(table, names=tuple(cells), column=cells.__getitem__, notes=(*table.notes, *notes))


def _columns_note(table: Table, columns: Columns) -> str:
    texts = repr(columns.text) if columns.pair is None else f"{columns.text!r} and {columns.pair!r}"
    return f"{table.called}: text from column {texts}, label from column {columns.label!r} (detected)."


def _cleaned(
    table: Table, columns: Columns, label_separator: str | None, *, strict: bool
) -> tuple[Examples, list[str]]:
    """Return the rows that have text and label, and a note on each kind of repair."""
    repaired: set[int] = set()

    def column(name: str) -> tuple[str, ...]:
        return tuple(_strings(table, name, repaired))

    every = Examples(
        texts=column(columns.text),
        pairs=None if columns.pair is None else column(columns.pair),
        labels=tuple(map(_one_spelling, column(columns.label)))
        if label_separator is None
        else label_sets(table, columns.label, label_separator, _spelled),
        groups=None if columns.group is None else tuple(map(_one_spelling, column(columns.group))),
    )
    _refuse_repaired(table, repaired, strict=strict)
    written = _with_text(every.texts, every.pairs)
    kept = [row for row in written if every.labels[row]]
    if not kept:
        raise DataError(
            f"No row of {table.source} has both a text (column {columns.text!r}) and a label (column "
            f"{columns.label!r})."
        )
    counted = {
        REPAIRED: sorted(repaired),
        "rows dropped for having no text": sorted({*range(table.rows)}.difference(written)),
        "rows dropped for having no label": [row for row in written if not every.labels[row]],
    }
    return every if len(kept) == table.rows else every.take(kept), _counted(table, counted)


def _refuse_repaired(table: Table, repaired: set[int], *, strict: bool) -> None:
    if strict and repaired:
        raise DataError(
            f"Row {min(repaired) + 1} of {table.source} holds bytes that are not UTF-8, or NUL characters; mend it, or "
            "leave out `strict` to have them replaced and counted."
        )


def _counted(table: Table, counted: Mapping[str, Sequence[int]]) -> list[str]:
    """Return a note for each kind of rows, with how many there are and where the first of them stand."""
    return [f"{table.called}: {what}: {len(rows):,} ({table.places(rows)})." for what, rows in counted.items() if rows]


def _with_text(*sides: Sequence[str] | None) -> list[int]:
    """Return the rows that have a text; for pairs, one of the two is enough."""
    columns = [side for side in sides if side is not None]
    return [row for row, texts in enumerate(zip(*columns, strict=True)) if any(text.strip() for text in texts)]


def _strings(table: Table, name: str, repaired: set[int]) -> list[str]:
    """Return a column as Unicode text without NUL; rows that needed a change are added to `repaired`."""
    strings = []
    for row, cell in enumerate(table.column(name)):
        if isinstance(cell, list | dict):
            raise DataError(
                f"Row {row + 1} of {table.source} holds a {type(cell).__name__} in column {name!r}; a text, a "
                "label or a group is one value."
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


def _written(value: object) -> str:
    """Return a JSON value as a string; empty if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _spelled(value: object) -> str:
    return _one_spelling(as_unicode(value if isinstance(value, str) else _written(value)).replace("\x00", " "))


def _one_spelling(string: str) -> str:
    """Return the canonical form of a label, whatever wrote the file: `1.0` as `1`, `True` as `true`."""
    written = string.strip()
    if whole := WHOLE_NUMBER.fullmatch(written):
        return whole[1]
    return written.lower() if written in ("True", "False", "TRUE", "FALSE") else written
