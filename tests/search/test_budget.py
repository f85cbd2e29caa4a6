"""When a search ends: limits by hand, what is left of them, and when no improvement is expected any more."""

import math
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.study_file import DEFAULT_TRIALS, BudgetConfig
from hpo.errors import ConfigurationError
from hpo.search.budget import Limits, budget_warning, has_stalled, limits_of, needed_budget, seconds_left

EVENING = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
NOW = EVENING.timestamp()
NONE: dict[str, Any] = dict.fromkeys(("trials", "deadline", "device_seconds", "trial_seconds", "patience"))

spans = st.floats(0, 1e6)
scores = st.lists(st.none() | st.floats(-1, 1), max_size=30)


def limits(**given_ones: float) -> Limits:
    """Return limits, none but those given."""
    return Limits(**{"begun": NOW} | NONE | given_ones)


# -- limits


def test_without_a_budget_there_are_the_usual_trials_and_no_other_limit() -> None:
    assert limits_of(BudgetConfig(), EVENING) == limits(trials=DEFAULT_TRIALS)


def test_every_limit_is_read() -> None:
    budget = BudgetConfig(trials=12, time="8h", gpu_hours=1.5, trial_time="20m", patience=9)
    assert limits_of(budget, EVENING) == Limits(
        begun=NOW, trials=12, deadline=NOW + 28800, device_seconds=5400, trial_seconds=1200, patience=9
    )


@pytest.mark.parametrize(
    ("time", "until", "hours"),
    [("8h", "07:30", 8), ("16h", "07:30", 13.5), (None, "2026-11-22 19:00", 1), ("1h", "2026-11-22T20:00+01:00", 1)],
)
def test_of_two_deadlines_the_earlier_counts_and_trials_are_as_many_as_fit(
    time: str | None, until: str, hours: float
) -> None:
    read = limits_of(BudgetConfig(time=time, until=until), EVENING)
    assert read == limits(deadline=NOW + 3600 * hours)


def test_a_deadline_in_the_past_is_refused_by_its_key() -> None:
    with pytest.raises(ConfigurationError, match=r"^budget\.until: '2026-11-22 07:30' is past: it is 2026-11-22 18:00"):
        limits_of(BudgetConfig(until="2026-11-22 07:30", time="8h"), EVENING)


# -- what is left


@pytest.mark.parametrize(
    ("given_ones", "left"),
    [
        ({}, math.inf),
        ({"trials": 3, "patience": 2, "trial_seconds": 5}, math.inf),
        ({"deadline": NOW + 100}, 70),
        ({"device_seconds": 1000}, 350),
        ({"deadline": NOW + 100, "device_seconds": 1000}, 70),
        ({"deadline": NOW + 10_000, "device_seconds": 1000}, 350),
        ({"deadline": NOW + 20}, 0),
        ({"deadline": NOW - 20}, 0),
        ({"device_seconds": 600}, 0),
    ],
)
def test_what_is_left_by_hand(given_ones: dict[str, float], left: float) -> None:
    assert seconds_left(limits(**given_ones), now=NOW, reserve=30, spent=500, committed=150) == left


@given(spans, spans, spans, spans, spans)
def test_what_takes_no_longer_than_is_left_ends_in_time_and_within_the_device_hours(
    deadline: float, reserve: float, devices: float, spent: float, committed: float
) -> None:
    left = seconds_left(
        limits(deadline=deadline, device_seconds=devices), now=0, reserve=reserve, spent=spent, committed=committed
    )
    assert left >= 0
    if left:
        assert left + reserve <= deadline + 1e-6
        assert left + spent + committed <= devices + 1e-6


@given(spans, spans, spans, spans)
def test_less_is_left_as_time_goes_and_devices_are_used(
    deadline: float, devices: float, early: float, more: float
) -> None:
    both = limits(deadline=deadline, device_seconds=devices)
    first = seconds_left(both, now=early, reserve=1, spent=early, committed=1)
    assert seconds_left(both, now=early + more, reserve=1, spent=early, committed=1) <= first
    assert seconds_left(both, now=early, reserve=1 + more, spent=early, committed=1) <= first
    assert seconds_left(both, now=early, reserve=1, spent=early + more, committed=1) <= first
    assert seconds_left(both, now=early, reserve=1, spent=early, committed=1 + more) <= first


# -- stalling


def stalls(ended: list[float | None], noise: float, patience: int) -> bool:
    """Tell from the scores of the trials that are over; None for one without a score."""
    known = [[score for score in ended[: count + 1] if score is not None] for count in range(len(ended))]
    return has_stalled([max(scores, default=None) for scores in known], noise, patience)


@pytest.mark.parametrize(
    ("ended", "noise", "stalled"),
    [
        ([0.5], 0.0, False),
        ([0.5, 0.5, 0.5], 0.0, False),
        ([0.5, 0.5, 0.5, 0.5], 0.0, True),
        ([0.5, 0.4, 0.51, 0.4], 0.0, False),
        ([0.5, 0.4, 0.51, 0.4], 0.01, True),
        ([0.5, 0.4, 0.52, 0.4], 0.01, False),
        ([0.5, 0.6, 0.4, 0.4, 0.4], 0.0, True),
        ([0.5, None, None, None], 0.0, True),
        ([0.5, None, 0.6, None], 0.0, False),
        ([None, None, None, 0.1], 0.0, False),
        ([None, None, None, None], 0.0, True),
        ([], 0.0, False),
    ],
)
def test_a_search_stalls_after_three_trials_that_are_no_better_than_the_noise(
    ended: list[float | None], noise: float, stalled: bool
) -> None:
    assert stalls(ended, noise, patience=3) is stalled


@given(scores, st.floats(0, 1), st.integers(1, 10))
def test_a_new_best_far_above_the_noise_is_always_waited_on(
    ended: list[float | None], noise: float, patience: int
) -> None:
    assert not stalls([*ended, 3.0], noise, patience)


@given(scores, st.floats(0, 1), st.integers(1, 10))
def test_trials_that_bring_nothing_stall_every_search_in_the_end(
    ended: list[float | None], noise: float, patience: int
) -> None:
    assert stalls([*ended, 0.0, *[None] * patience], noise, patience)


@given(scores, st.floats(0, 1), st.floats(0, 1), st.integers(1, 10))
def test_with_more_noise_a_search_stalls_no_later(
    ended: list[float | None], noise: float, more: float, patience: int
) -> None:
    assert stalls(ended, noise + more, patience) >= stalls(ended, noise, patience)


@given(scores, st.integers(1, 10))
def test_nothing_stalls_before_more_than_patience_have_ended(ended: list[float | None], patience: int) -> None:
    assert not stalls(ended[:patience], 0.0, patience)


# -- too short for one trial


TAKES = "the shortest trial of this space seems to take about 5 min 20 s here"


@pytest.mark.parametrize(
    ("given_ones", "reserve", "sentence"),
    [
        ({"deadline": NOW + 60}, 0, f"The search may take 1 min 00 s, but {TAKES}; give it 5 min 00 s more."),
        (
            {"deadline": NOW + 330},
            30,
            f"The search may take 5 min 30 s, but {TAKES}, and what follows the last one 30 s; give it "
            "1 min 00 s more.",
        ),
        ({"deadline": NOW - 5}, 0, f"The search may take 0 s, but {TAKES}; give it 6 min 00 s more."),
        ({"device_seconds": 36}, 0, f"budget.gpu_hours allows 36 s of training, but {TAKES}; give 0.09 or more."),
        (
            {"trial_seconds": 300, "deadline": NOW + 9999},
            0,
            f"budget.trial_time allows 5 min 00 s of training, but {TAKES}; give 6m or more.",
        ),
    ],
)
def test_a_budget_that_seems_too_short_for_any_trial_is_doubted(
    given_ones: dict[str, float], reserve: float, sentence: str
) -> None:
    assert budget_warning(limits(**given_ones), NOW, 320, reserve) == sentence


def test_device_hours_that_are_told_to_suffice_do_so_beside_the_share_of_a_confirmation() -> None:
    doubt = budget_warning(limits(device_seconds=0.75 * 360), NOW, 320, 0, share_of_devices=0.75) or ""
    assert "4 min 30 s of training, a confirmation's share taken off, but" in doubt
    enough = float(re.findall(r"give ([\d.]+) or more\.$", doubt)[0])
    assert budget_warning(limits(device_seconds=0.75 * 3600 * enough), NOW, 320, 0, share_of_devices=0.75) is None


@pytest.mark.parametrize(
    "given_ones", [{}, {"deadline": NOW + 350}, {"device_seconds": 320, "trial_seconds": 320, "deadline": NOW + 1e4}]
)
def test_a_budget_into_which_one_trial_fits_is_not_doubted(given_ones: dict[str, float]) -> None:
    assert budget_warning(limits(**given_ones), NOW, 320, 30) is None


@given(st.floats(0, 1e5), st.floats(0.1, 1e5), st.floats(0, 1e3))
def test_what_is_doubted_is_exactly_what_leaves_too_little_for_one_trial(
    deadline: float, cheapest: float, reserve: float
) -> None:
    doubt = budget_warning(limits(deadline=deadline), 0, cheapest, reserve)
    assert (doubt is None) == (deadline >= cheapest + reserve)


@pytest.mark.parametrize(
    ("budget", "enough"),
    [
        # Four trials of three minutes and what is beside them.
        ({"time": "8m"}, "--for 13m"),
        # More than did not suffice, whatever the forecast says.
        ({"time": "1h"}, "--for 90m"),
        ({"until": "07:30"}, "--until a time at least 13 min 00 s away"),
        ({"gpu_hours": 0.1}, "--gpu-hours 0.2"),
        ({"gpu_hours": 2}, "--gpu-hours 3"),
    ],
)
def test_a_search_without_a_trial_says_what_it_needs(budget: dict[str, Any], enough: str) -> None:
    assert needed_budget(BudgetConfig(**budget), 180, 30) == (
        f"No trial has completed: a trial takes about 3 min 00 s here; give {enough}, or lower epochs or max_length. "
        "The same command resumes what has begun."
    )
