"""File formats: chosen by a file's ending; text formats may be compressed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.data.readers.arrow import read_parquet
from hpo.data.readers.delimited import read_csv, read_tsv
from hpo.data.readers.json_lines import read_jsonl
from hpo.data.readers.table import Table
from hpo.data.readers.text_files import (
    COMPRESSIONS,
    clear_errors,
    compression_of,
    format_ending,
    open_bytes,
    refuse_other_text,
)
from hpo.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Format of the files with one ending."""

    read: Callable[[Path], Table]
    description: str
    source: str
    is_text: bool = True
    """True if it is UTF-8 text, which may be compressed."""


JSON_LINES = Format(
    read=read_jsonl, description="one JSON object a line, a key for each column", source="Python's json module"
)
FORMATS: dict[str, Format] = {
    ".csv": Format(
        read=read_csv,
        description="a header and rows, divided by comma, semicolon, tab or |, or as data.delimiter says",
        source="Python's csv module",
    ),
    ".tsv": Format(
        read=read_tsv, description="a header and rows, divided by tabs, quoted or not", source="Python's csv module"
    ),
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".parquet": Format(
        read=read_parquet,
        description="columns of strings, numbers or class labels; needs the extra `datasets`",
        source="pyarrow.parquet.ParquetFile",
        is_text=False,
    ),
}


def read_table(path: Path, *, strict: bool, delimiter: str | None = None) -> Table:
    """Read the file at `path` by its ending.

    Args:
        path: a file whose ending is one of `FORMATS`; after that of a text format, one of `COMPRESSIONS` may follow.
        strict: refuse bytes that are not UTF-8.
        delimiter: delimiter of the cells of CSV and TSV files; None detects it.

    Raises:
        DataError: the file does not exist, has another ending, is empty or damaged, or has a row that cannot be read
            (the message names its line).
    """
    known = format_of(path)
    with clear_errors(path):
        _refuse_empty(path)
        if known.is_text:
            refuse_other_text(path, strict=strict)
        if delimiter is not None and known.read in (read_csv, read_tsv):
            return read_csv(path, delimiter)
        return known.read(path)


def format_of(path: Path) -> Format:
    """Return the format of a file by its ending.

    Raises:
        DataError: an ending of no known format.
    """
    if path.suffix.lower() == ".zst":
        raise DataError(
            f"{path} is compressed with Zstandard, which is not read; decompress it, or compress it as "
            f"{' or '.join(COMPRESSIONS)}."
        )
    known = FORMATS.get(format_ending(path))
    if known is None:
        raise DataError(
            f"Cannot tell the format of {path} by its ending; known are {', '.join(FORMATS)}, and text compressed as "
            f"{', '.join(COMPRESSIONS)}."
        )
    if compression_of(path) and not known.is_text:
        raise DataError(f"{path} is a compressed {format_ending(path)}, which is compressed already; decompress it.")
    return known


def _refuse_empty(path: Path) -> None:
    with open_bytes(path) as stream:
        if not stream.read(1):
            raise DataError(f"{path} is empty.")
