"""Source locations: a file, a pattern of files, a folder that `datasets` saved, or the hub."""

import os
import re
from glob import glob, has_magic
from itertools import chain
from pathlib import Path

from hpo.config.files_nearby import files_nearby
from hpo.data.readers.formats import FORMATS, format_of, read_table
from hpo.data.readers.hub import HUB, SplitName, parse_address, read_hub, read_saved, refuse_other_folder
from hpo.data.readers.table import Table
from hpo.data.readers.text_files import format_ending
from hpo.errors import DataError, without_credentials

OTHER_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w-]*")


def read_source(source: str, role: SplitName, *, strict: bool, delimiter: str | None = None) -> Table:
    """Read the rows of `source`.

    Args:
        source: a file, a pattern such as `part-*.csv` (`**` for nested folders), a folder that `save_to_disk` wrote, or
            `hf://OWNER/NAME?configuration=NAME&split=NAME&revision=REV`.
        role: the split of a data set to read if `source` does not name one.
        strict: refuse bytes of text files that are not UTF-8.
        delimiter: delimiter of the cells of CSV and TSV files; None detects it.

    Raises:
        DataError: the source does not exist or cannot be read, or files of a pattern have different columns.
    """
    refuse_missing(source)
    if source.lower().startswith(HUB):
        return read_hub(source, role)
    if os.path.isdir(source):
        return read_saved(source, role)
    if os.path.lexists(source):
        return read_table(Path(source), strict=strict, delimiter=delimiter)
    return _read_pattern(source, strict=strict, delimiter=delimiter)


def refuse_missing(source: str) -> None:
    """Refuse a source that can be seen to be unreadable without opening a file of it.

    Raises:
        DataError: there is no such file, none of a pattern, a folder or file of another kind, or no address of the hub.
    """
    if source.lower().startswith(HUB):
        parse_address(source)
    elif os.path.isdir(source):
        refuse_other_folder(source)
    elif os.path.lexists(source):
        format_of(Path(source))
    elif not has_magic(source):
        raise DataError(_nothing_there(source))
    elif not _matching(source):
        raise DataError(f"No file matches the pattern {source}.")


def is_missing(source: str) -> bool:
    """Return true if `source` is a path on this machine that does not exist."""
    return not (source.lower().startswith(HUB) or os.path.lexists(source) or has_magic(source))


def _nothing_there(source: str) -> str:
    if other := OTHER_SCHEME.match(source):
        shown = without_credentials(source)
        return f"{shown} is a {other[1]} address, which is not read; download it, or name a data set of the hub {HUB}."
    missing = f"Cannot read {source!r}: No such file or directory"
    if HUB_NAME.fullmatch(source):
        return f"{missing}; for a data set of the hub write {HUB}{source}."
    return f"{missing}.{files_nearby(source, lambda one: format_ending(one) in FORMATS)}"


def _matching(pattern: str) -> list[str]:
    return sorted(path for path in glob(pattern, recursive=True) if os.path.isfile(path))


def _read_pattern(pattern: str, *, strict: bool, delimiter: str | None) -> Table:
    """Read all matching files, in the order of their names, as one table."""
    paths = _matching(pattern)
    tables = [read_table(Path(path), strict=strict, delimiter=delimiter) for path in paths]
    for table in tables:
        _refuse_other_columns(tables[0], table)
    return Table(
        source=pattern,
        names=tables[0].names,
        rows=sum(table.rows for table in tables),
        column=lambda name: list(chain.from_iterable(table.column(name) for table in tables)),
        notes=(
            f"{Path(pattern).name}: files read: {len(paths):,}.",
            *(note for table in tables for note in table.notes),
        ),
    )


def _refuse_other_columns(first: Table, table: Table) -> None:
    differing = sorted(set(first.names) ^ set(table.names))
    if differing:
        holder, lacking = (first, table) if differing[0] in first.names else (table, first)
        raise DataError(
            f"Files of one pattern have the same columns, but {holder.source} has {differing[0]!r} and "
            f"{lacking.source} has not."
        )
