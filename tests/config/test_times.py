"""How long and until when: known answers, what is refused, and the nights on which clocks change."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.times import LOCAL_ZONE, LONGEST, UNITS, humanized, parse_duration, parse_moment

EVENING = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
NAMES = [(name, seconds) for seconds, names in UNITS.items() for name in names]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ZoneInfo]:
    """Put the machine into a zone whose clocks change at night."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield ZoneInfo("Europe/Berlin")
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("8h", 28800),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1 hour 30 minutes", 5400),
        (" 2 Days ", 172800),
        ("0.5h", 1800),
        ("45s", 45),
        ("2d12h", 216000),
    ],
)
def test_durations_as_people_write_them(duration: str, seconds: float) -> None:
    assert parse_duration(duration) == seconds


@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from(NAMES)), min_size=1, max_size=4), st.sampled_from(["", " "])
)
def test_the_parts_of_a_duration_add_up(parts: list[tuple[int, tuple[str, int]]], space: str) -> None:
    written = space.join(f"{number}{space}{name}" for number, (name, _) in parts)
    assert parse_duration(written) == sum(number * seconds for number, (_, seconds) in parts)


@pytest.mark.parametrize(
    "duration",
    ["", "8", "h", "1h30", "-1h", "0h", "0h0m", "1.5.2h", "8h x", "2 months", "5 ms", "1 decade", "1e3s", "nan"],
)
def test_what_is_no_length_of_time_is_refused(duration: str) -> None:
    """Months and milliseconds too: they begin as minutes do."""
    with pytest.raises(ValueError, match="is no length of time; write it as 8h, 90m, 1h30m or 45s"):
        parse_duration(duration)


@pytest.mark.parametrize("duration", ["3651d", "9" * 400 + "h"])
def test_nothing_takes_longer_than_ten_years(duration: str) -> None:
    with pytest.raises(ValueError, match="is longer than ten years"):
        parse_duration(duration)
    assert parse_duration("3650d") == LONGEST


@pytest.mark.parametrize(
    ("until", "moment"),
    [
        ("18:01", datetime(2026, 11, 22, 18, 1, tzinfo=UTC)),
        ("07:30", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("7:30", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("18:00", datetime(2026, 11, 23, 18, 0, tzinfo=UTC)),
        ("2026-11-23 07:30", datetime(2026, 11, 23, 7, 30, tzinfo=UTC)),
        ("2026-11-23T07:30:00+01:00", datetime(2026, 11, 23, 6, 30, tzinfo=UTC)),
    ],
)
def test_a_time_of_day_is_the_next_one_and_a_date_is_that_date(until: str, moment: datetime) -> None:
    assert parse_moment(until, EVENING) == moment


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.integers(-12, 14),
    st.integers(0, 23),
    st.integers(0, 59),
)
def test_the_next_time_of_day_is_within_a_day_and_reads_as_written(
    now: datetime, zone: int, hour: int, minute: int
) -> None:
    start = now.replace(tzinfo=timezone(timedelta(hours=zone)))
    moment = parse_moment(f"{hour:02d}:{minute:02d}", start)
    assert timedelta(0) < moment - start <= timedelta(days=1)
    assert (moment.hour, moment.minute, moment.second, moment.microsecond) == (hour, minute, 0, 0)


@pytest.mark.parametrize("until", ["2026-11-22 17:59", "2026-11-22 18:00", "2026-11-22T18:30+01:00", "2020-01-01"])
def test_what_is_past_is_refused(until: str) -> None:
    with pytest.raises(ValueError, match="is past: it is 2026-11-22 18:00 now; name a time to come"):
        parse_moment(until, EVENING)


@pytest.mark.parametrize("until", ["", "24:00", "7:5", "07:30:00", "tomorrow", "2026-13-01 07:30", "23.11.2026"])
def test_what_is_no_time_is_refused(until: str) -> None:
    with pytest.raises(ValueError, match="is no time; write it as 07:30, or with its date as 2026-11-23 07:30"):
        parse_moment(until, EVENING)


@pytest.mark.parametrize(("day", "hours"), [("2026-10-24", 14.5), ("2026-03-28", 12.5), ("2026-11-22", 13.5)])
def test_half_past_seven_is_right_on_the_nights_on_which_clocks_change(
    berlin: ZoneInfo, day: str, hours: float
) -> None:
    now = datetime.fromisoformat(f"{day} 18:00").replace(tzinfo=berlin).timestamp()
    until = parse_moment("07:30", datetime.fromtimestamp(now, LOCAL_ZONE))
    assert until.timestamp() - now == 3600 * hours
    assert f"{until:%H:%M}" == "07:30"


@given(st.integers(0, 4_000_000_000))
def test_here_is_what_the_clock_on_the_wall_says(seconds: int) -> None:
    """In the zone of the machine, whichever it is: as Python reads the system's clock, and back."""
    here = datetime.fromtimestamp(seconds, LOCAL_ZONE)
    assert here.replace(tzinfo=None) == datetime.fromtimestamp(seconds)
    assert here.timestamp() == seconds


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("change", ["2026-03-29 00:00", "2026-10-25 00:00"])
def test_here_knows_the_hour_that_comes_twice_and_the_one_that_never_comes(berlin: ZoneInfo, change: str) -> None:
    midnight = datetime.fromisoformat(change).replace(tzinfo=UTC).timestamp()
    for minute in range(0, 180, 5):
        seconds = midnight + 60 * minute
        here, there = datetime.fromtimestamp(seconds, LOCAL_ZONE), datetime.fromtimestamp(seconds, berlin)
        assert (here.replace(tzinfo=None), here.fold) == (there.replace(tzinfo=None), there.fold)
        assert here.timestamp() == seconds
        assert here.tzname() == there.tzname()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (25500, "7 h 05 min"),
        (86400 * 2, "48 h 00 min"),
    ],
)
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert humanized(seconds) == said


@given(st.floats(0, LONGEST))
def test_what_is_said_reads_back_to_within_what_is_said(seconds: float) -> None:
    within = 60 if seconds >= 3599 else 1
    heard = parse_duration(humanized(seconds)) if round(seconds) else 0
    assert abs(heard - seconds) <= within
