"""Files nearby: the names that a path to a missing file may have meant, as the end of a message."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from hpo.errors import misspelt

SHOWN_FILES = 8
READ_FILES = 1000
"""Most entries of a folder that are looked at."""


def files_nearby(missing: str | Path, is_such: Callable[[Path], bool]) -> str:
    """Return, after a space, the files beside a missing one that it may have meant, or else all of its kind.

    Args:
        missing: path of the file.
        is_such: returns true if a file may be of the kind that is needed, by its name.

    Returns:
        `Did you mean 'study.yaml'?`, or `In its folder there are a.yaml, b.yaml.`; empty if there are none.
    """
    path = Path(missing)
    try:
        beside = islice(path.parent.iterdir(), READ_FILES)
        names = sorted(one.name for one in beside if is_such(one) and one.is_file())
    except (OSError, ValueError):
        return ""
    if meant := misspelt(path.name, names) or [one for one in names if Path(one).stem == path.stem]:
        return f" Did you mean {' or '.join(repr(str(path.with_name(one))) for one in meant)}?"
    more = len(names) - SHOWN_FILES
    listed = ", ".join(names[:SHOWN_FILES]) + (f" and {more} more" if more > 0 else "")
    return f" In its folder there {'is' if len(names) == 1 else 'are'} {listed}." if names else ""
