"""Durations and moments in text: parsing of `8h`, `1h30m` and `07:30`, and formatting as `3 min 20 s`."""

import re
from datetime import UTC, datetime, timedelta, tzinfo

UNITS = {
    86400: ("d", "day", "days"),
    3600: ("h", "hr", "hrs", "hour", "hours"),
    60: ("m", "min", "mins", "minute", "minutes"),
    1: ("s", "sec", "secs", "second", "seconds"),
}
"""Seconds of a unit -> its names."""
LONGEST = 10 * 365 * 86400
_SECONDS_OF = {name: seconds for seconds, names in UNITS.items() for name in names}
_PART = re.compile(rf"([0-9]+(?:\.[0-9]+)?)\s*({'|'.join(sorted(_SECONDS_OF, key=len, reverse=True))})(?![a-z])\s*")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")


def parse_duration(duration: str) -> float:
    """Return the seconds of a duration such as `8h`, `90m`, `1h30m` or `2 days`: above 0, at most ten years.

    Raises:
        ValueError: not a duration, zero, or longer than ten years.
    """
    text = duration.strip().lower()
    parts = _PART.findall(text) if _DURATION.fullmatch(text) else []
    seconds = sum(float(number) * _SECONDS_OF[unit] for number, unit in parts)
    if seconds > LONGEST:
        raise ValueError(f"{duration!r} is longer than ten years; write it as 8h, 90m, 1h30m or 45s.")
    if seconds <= 0:
        raise ValueError(f"{duration!r} is no length of time; write it as 8h, 90m, 1h30m or 45s.")
    return seconds


def parse_moment(until: str, now: datetime) -> datetime:
    """Parse `07:30`, the next one after `now`, or a date and time such as `2026-11-23 07:30`.

    Args:
        until: a time of day, or a date and time, in the time zone of `now` unless it contains one.
        now: the current time, in a time zone with daylight saving, such as `LOCAL_ZONE`.

    Raises:
        ValueError: invalid, or in the past.
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


def humanized(seconds: float) -> str:
    """Format a finite duration, 0 or more: `45 s`, `3 min 20 s`, `7 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class _SystemZone(tzinfo):
    """Time zone of this machine with daylight saving; `astimezone()` gives a fixed offset."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:  # noqa: ARG002
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        # Unlike `astimezone()`, sets `fold` for an hour that occurs twice.
        return datetime.fromtimestamp(moment.replace(tzinfo=UTC).timestamp()).replace(tzinfo=self)


LOCAL_ZONE: tzinfo = _SystemZone()
"""The time zone of this machine: `datetime.now(LOCAL_ZONE)`."""
