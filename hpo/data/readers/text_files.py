"""Text files: decompression by their ending, and detection of UTF-16 and UTF-32."""

import bz2
import gzip
import lzma
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, TextIOWrapper
from pathlib import Path
from typing import BinaryIO, cast

from hpo.errors import DataError

BEGINNING = 4096
"""Number of bytes from which the encoding is detected."""
HEADER = 32
MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte-order mark -> encoding; longer ones first, because one mark is a prefix of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Compression format of a file."""

    open: Callable[[Path], BufferedIOBase]
    description: str
    """Program that decompresses the file to standard output when called with -dc."""
    source: str


COMPRESSIONS: dict[str, Compression] = {
    ".gz": Compression(open=gzip.GzipFile, description="gzip", source="Python's gzip.GzipFile"),
    ".bz2": Compression(open=bz2.BZ2File, description="bzip2", source="Python's bz2.BZ2File"),
    ".xz": Compression(open=lzma.LZMAFile, description="xz", source="Python's lzma.LZMAFile"),
}


def compression_of(path: Path) -> Compression | None:
    """Return the compression of the file at `path`, by its ending; None if there is none."""
    return COMPRESSIONS.get(path.suffix.lower())


def format_ending(path: Path) -> str:
    """Return the ending that gives the format, in lower case: `.csv` of `texts.CSV.gz`."""
    return (Path(path.stem) if compression_of(path) else path).suffix.lower()


def open_bytes(path: Path) -> BufferedIOBase:
    """Open the decompressed content of the file at `path`."""
    compression = compression_of(path)
    return compression.open(path) if compression else path.open("rb")


def open_text(path: Path, newline: str) -> TextIOWrapper:
    """Open the decompressed content of the file at `path` as UTF-8; other bytes become lone surrogates."""
    content = cast(BinaryIO, open_bytes(path))  # every stream here is one, though not by its declared type
    return TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Explain in one sentence why the file at `path` cannot be opened, read or decompressed.

    Raises:
        DataError: instead of the error of the file system or the decompressor.
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


def refuse_other_text(path: Path, *, strict: bool) -> None:
    """Raise a `DataError` for UTF-16 and UTF-32, a damaged archive, and, if `strict`, any bytes that are not UTF-8."""
    with open_bytes(path) as stream:
        if (encoding := _wide_encoding(stream.read(BEGINNING))) is not None:
            raise DataError(
                f"{path} holds many NUL bytes and looks like {encoding} text; texts are read as UTF-8. Convert it: "
                f"{_conversion_command(path, encoding)}"
            )
        # Read an archive to its end, where its checksum is; otherwise the damage would be reported as a fault of some
        # row.
        if not strict and not compression_of(path):
            return
        stream.seek(0)
        for number, line in enumerate(stream, 1):
            try:
                line.decode(errors="strict" if strict else "replace")
            except UnicodeDecodeError:
                raise DataError(
                    f"{path}, line {number}, is not UTF-8; save the file as UTF-8, or leave out `strict` to "
                    "have such bytes replaced and counted."
                ) from None


def _wide_encoding(beginning: bytes) -> str | None:
    """Return the encoding, in iconv's name, of a file with these first bytes; None if it has single-byte characters.

    Such a file has a byte-order mark or many NUL bytes: every other byte of a Latin header, and in any text the bytes
    of spaces and line ends.
    """
    marked = next((name for mark, name in MARKS.items() if beginning.startswith(mark)), None)
    header = beginning[:HEADER]
    many = header.count(0) > len(header) / 4 or (len(beginning) >= 256 and beginning.count(0) > len(beginning) / 20)
    if marked or not many:
        return marked
    nul_shares = [beginning[place::4].count(0) / max(1, len(beginning[place::4])) for place in range(4)]
    if min(nul_shares[2:]) > 0.9 or min(nul_shares[:2]) > 0.9:
        return "UTF-32LE" if nul_shares[3] > nul_shares[0] else "UTF-32BE"
    high, low = nul_shares[0] + nul_shares[2], nul_shares[1] + nul_shares[3]
    if max(high, low) < 0.9 * (high + low):
        return None
    return "UTF-16LE" if low > high else "UTF-16BE"


def _conversion_command(path: Path, encoding: str) -> str:
    """Return the command that writes a UTF-8 copy of a file next to it."""
    compression = compression_of(path)
    plain = Path(path.stem if compression else path.name)
    source, copy = (shlex.quote(str(one)) for one in (path, path.with_name(f"{plain.stem}-utf8{plain.suffix}")))
    if compression:
        return f"{compression.description} -dc {source} | iconv -f {encoding} -t UTF-8 > {copy}"
    return f"iconv -f {encoding} -t UTF-8 {source} > {copy}"
