"""JSON Lines: one JSON object per line."""

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

from hpo.data.readers.table import Table, as_unicode
from hpo.data.readers.text_files import open_text
from hpo.errors import DataError


def read_jsonl(path: Path) -> Table:
    """Read one JSON object per line; a missing key gives None in its column."""
    # Not strict: raw tabs and other control characters inside strings are common and harmless.
    decode = json.JSONDecoder(strict=False).decode
    rows: list[dict[str, object]] = []
    lines: list[int] = []
    # Lines end at \n only: U+2028 and the like are ordinary characters inside a JSON string.
    with open_text(path, newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            if not line.isspace():
                rows.append(_json_object(path, number, line, decode))
                lines.append(number)
    if not rows:
        raise DataError(f"{path} holds only blank lines.")
    keys = {as_unicode(key): key for key in dict.fromkeys(chain.from_iterable(rows))}
    return Table(
        source=str(path),
        names=tuple(keys),
        rows=len(rows),
        column=lambda name: [row.get(keys[name]) for row in rows],
        lines=lines,
    )


def _json_object(path: Path, number: int, line: str, decode: Callable[[str], object]) -> dict[str, object]:
    try:
        row = decode(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        what = error.msg.lower().removesuffix(" at")
        raise DataError(f"{path}, line {number}, is not valid JSON: {what} at character {error.colno}.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}, line {number}, holds JSON that is nested too deeply or a number too long.") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}, must be one JSON object {{...}}, but is a {type(row).__name__}.")
    return row
