"""Opens a file, decompressed where its ending says so; a damaged one is told in a sentence."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, TextIOWrapper
from pathlib import Path
from typing import BinaryIO, cast

from hpo.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How a compressed file is opened."""

    open: Callable[[Path], BufferedIOBase]
    description: str
    source: str


COMPRESSIONS: dict[str, Compression] = {
    ".gz": Compression(open=gzip.GzipFile, description="gzip", source="Python's gzip.GzipFile"),
    ".bz2": Compression(open=bz2.BZ2File, description="bzip2", source="Python's bz2.BZ2File"),
    ".xz": Compression(open=lzma.LZMAFile, description="LZMA", source="Python's lzma.LZMAFile"),
}


def compression_of(path: Path) -> Compression | None:
    """Return how the file at `path` is compressed, by its ending; None where it is not."""
    return COMPRESSIONS.get(path.suffix.lower())


def format_ending(path: Path) -> str:
    """Return the ending that tells the format, in lower case: `.csv` of `texts.CSV.gz`."""
    return (Path(path.stem) if compression_of(path) else path).suffix.lower()


def open_bytes(path: Path) -> BufferedIOBase:
    """Open the content of the file at `path`."""
    compression = compression_of(path)
    return compression.open(path) if compression else path.open("rb")


def open_text(path: Path, newline: str) -> TextIOWrapper:
    """Open the content of the file at `path` as UTF-8; other bytes become lone surrogates."""
    content = cast(BinaryIO, open_bytes(path))  # which every stream here is, though not by its declared type
    return TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Say in one sentence why the file at `path` cannot be opened, read or decompressed.

    Raises:
        DataError: in place of what the file system or a decompressor raises.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from None
        raise DataError(
            f"{path} cannot be decompressed: it is cut short, damaged, or not what its ending says; write or copy it "
            "again."
        ) from None
