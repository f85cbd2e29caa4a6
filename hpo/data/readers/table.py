"""Tables: named columns of cells, which every source is read into."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import DataError

Cells = list[object]

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Named columns of cells: strings, or any JSON value; None where a row has no such cell.

    Raises:
        DataError: it has no rows, or two columns of one name.
    """

    source: str
    """Where it is from, as the user names it."""
    names: tuple[str, ...]
    rows: int
    column: Callable[[str], Cells]
    """From a name to its cells, one a row. Bytes that were not UTF-8 are lone surrogates in them."""
    notes: tuple[str, ...] = ()
    """How the source had to be read, where that was not the usual way."""

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.names if name and self.names.count(name) > 1})
        if repeated:
            raise DataError(f"{self.source} has more than one column {repeated[0]!r}; give each its own name.")
        if not self.rows:
            raise DataError(f"{self.source} names columns but holds no rows.")

    @property
    def called(self) -> str:
        """What a note calls the source: a file without its folders, a data set of the hub in full."""
        return self.source if "://" in self.source else Path(self.source).name


def as_unicode(text: str) -> str:
    """Return `text` with every lone surrogate, which stands for a byte that was not UTF-8, made a U+FFFD."""
    return LONE_SURROGATE.sub("\ufffd", text)
