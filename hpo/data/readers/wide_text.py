"""Texts of two or four bytes a character, which are not read: how they are known, and what command converts them."""

import shlex
from pathlib import Path

from hpo.data.readers.archives import compression_of

BEGINNING = 4096
"""Bytes of a file that tell."""
HEADER = 32
MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte-order mark -> the encoding that reads it; the longer ones first, as one begins with another."""
PROGRAMS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}


def wide_encoding(beginning: bytes) -> str | None:
    """Return the encoding, as iconv calls it, of a file that begins so; None where it is one of single bytes.

    It has a byte-order mark, or many NUL bytes: of a Latin header every other byte is one, and of any text so written
    some are, those of its spaces and line ends.
    """
    marked = next((name for mark, name in MARKS.items() if beginning.startswith(mark)), None)
    header = beginning[:HEADER]
    many = header.count(0) > len(header) / 4 or (len(beginning) >= 256 and beginning.count(0) > len(beginning) / 20)
    if marked or not many:
        return marked
    nuls = [beginning[place::4].count(0) / max(1, len(beginning[place::4])) for place in range(4)]
    if min(nuls[2:]) > 0.9 or min(nuls[:2]) > 0.9:
        return "UTF-32LE" if nuls[3] > nuls[0] else "UTF-32BE"
    high, low = nuls[0] + nuls[2], nuls[1] + nuls[3]
    if max(high, low) < 0.9 * (high + low):
        return None
    return "UTF-16LE" if low > high else "UTF-16BE"


def converting(path: Path, encoding: str) -> str:
    """Return the command that writes a copy of a file in UTF-8 beside it."""
    compressed = compression_of(path) is not None
    plain = Path(path.stem if compressed else path.name)
    source = shlex.quote(str(path))
    copy = shlex.quote(str(path.with_name(f"{plain.stem}-utf8{plain.suffix}")))
    if compressed:
        return f"{PROGRAMS[path.suffix.lower()]} -dc {source} | iconv -f {encoding} -t UTF-8 > {copy}"
    return f"iconv -f {encoding} -t UTF-8 {source} > {copy}"
