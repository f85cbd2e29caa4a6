"""Tables: named columns of cells, the common form of every source."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import DataError

Cells = list[object]

SHOWN_ROWS = 5
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Named columns of cells: strings, or any JSON value; None where a row lacks the cell.

    Raises:
        DataError: it has no rows, or two columns have the same name.
    """

    source: str
    """The source, as the user names it."""
    names: tuple[str, ...]
    rows: int
    column: Callable[[str], Cells]
    """From a name to its cells, one per row. Bytes that were not UTF-8 are lone surrogates."""
    notes: tuple[str, ...] = ()
    """Notes on how the source was read, if not in the usual way."""
    lines: Sequence[int] = ()
    """Line of the file at which each row begins; empty for a source without lines, or of several files."""

    def __post_init__(self) -> None:
        repeated = sorted({name for name in self.names if name and self.names.count(name) > 1})
        if repeated:
            raise DataError(f"{self.source} has more than one column {repeated[0]!r}; give each its own name.")
        if not self.rows:
            raise DataError(f"{self.source} names columns but holds no rows.")

    @property
    def called(self) -> str:
        """Short name of the source for notes: a file without its folders, a data set of the hub in full."""
        return self.source if "://" in self.source else Path(self.source).name

    def places(self, rows: Sequence[int]) -> str:
        """Return where the first few of some rows are, for a note: `lines 3, 7`, or `rows 2, 6` without lines."""
        shown = [self.lines[row] if self.lines else row + 1 for row in rows[:SHOWN_ROWS]]
        more = ", ..." if len(rows) > SHOWN_ROWS else ""
        return f"{'line' if self.lines else 'row'}{'s' * (len(rows) > 1)} {', '.join(map(str, shown))}{more}"


def as_unicode(text: str) -> str:
    """Return `text` with every lone surrogate, which represents a byte that was not UTF-8, replaced by U+FFFD."""
    return LONE_SURROGATE.sub("\ufffd", text)
