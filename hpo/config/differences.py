"""Says in words what differs between two configurations."""

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = "nothing"


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one phrase for each leaf that differs, such as `space.epochs.max: 3 before, 5 now`."""
    return list(_walk(before, after, prefix))


def _walk(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _walk(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} before, {new} now"
