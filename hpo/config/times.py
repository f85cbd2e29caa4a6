"""How long and until when, as people write it: `8h`, `1h30m`, `07:30`."""

import re
from datetime import datetime, timedelta

SECONDS_OF = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|m|s)[a-z]*\s*")
_DURATION = re.compile(rf"(?:{_PARTS.pattern})+")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def seconds_of(duration: str) -> float:
    """Return the seconds of a duration such as `8h`, `90m`, `1h30m` or `2 days`.

    Raises:
        ValueError: not a duration, or none at all.
    """
    text = duration.strip().lower()
    parts = _PARTS.findall(text) if _DURATION.fullmatch(text) else []
    seconds = sum(float(number) * SECONDS_OF[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError(f"{duration!r} is no length of time; write it as 8h, 90m, 1h30m or 45s.")
    return seconds


def moment_of(until: str, now: datetime) -> datetime:
    """Return when `until` is: the next `07:30` after `now`, or the date and time `2026-11-23 07:30`.

    Args:
        until: a time of day, or a date and time, in the time zone of `now` where it names none.
        now: with its time zone.

    Raises:
        ValueError: neither, or in the past.
    """
    if clock := _CLOCK.fullmatch(until.strip()):
        today = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)
    try:
        moment = datetime.fromisoformat(until.strip())
    except ValueError:
        raise ValueError(f"{until!r} is no time; write it as 07:30, or with its date as 2026-11-23 07:30.") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
    if moment <= now:
        raise ValueError(f"{until!r} is past: it is {now:%Y-%m-%d %H:%M} now; name a time to come.")
    return moment
