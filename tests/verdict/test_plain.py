"""JSON of a verdict: every key is documented, the decision and the reason follow from the intervals."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hpo.verdict.findings import BaselineScore, Difference, Interval, Verdict, verdict_to_plain
from tests.verdict.test_wording import AHEAD, BEHIND, DEFAULT, OTHER, UNSURE, WINNER, apart, confirmed, verdict

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()


def whole() -> Verdict:
    baseline = BaselineScore(name="majority class", score=0.4, interval=Interval(low=0.35, high=0.45))
    return verdict(AHEAD, apart("majority class", None, 0.4, 0.6), baselines=(baseline,), sentences=("Take it.",))


def keys(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys, value))
    if isinstance(value, dict):
        return set(value) | set().union(*map(keys, value.values()))
    return set()


def test_every_key_is_documented_and_all_is_json() -> None:
    plain = verdict_to_plain(whole())
    assert json.loads(json.dumps(plain)) == plain
    assert keys(plain) <= set(re.findall(r"`([a-z_]+)`", PAGE))


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [
        (0.01, 0.03, "better"),
        (-0.03, -0.01, "worse"),
        (-0.01, 0.03, "not distinguishable"),
        (0.0, 0.0, "not distinguishable"),
    ],
)
def test_a_comparison_is_decided_by_whether_its_interval_holds_0(low: float, high: float, decision: str) -> None:
    one = apart("the default", DEFAULT, low, high)
    assert verdict_to_plain(verdict(one))["comparisons"][0]["decision"] == decision
    assert f"`{decision}`" in PAGE


@pytest.mark.parametrize(
    ("differences", "recommended", "reason"),
    [
        ((AHEAD,), WINNER, "better than the default"),
        ((UNSURE,), WINNER, "likely better than the default"),
        ((UNSURE,), DEFAULT, "not distinguishable from the default"),
        ((BEHIND,), DEFAULT, "worse than the default"),
        ((AHEAD, apart("trial 4", OTHER, -0.01, 0.01)), OTHER, "faster, and not distinguishable from the winner"),
    ],
)
def test_the_reason_says_why_that_trial_is_to_be_taken(
    differences: tuple[Difference, ...], recommended: int, reason: str
) -> None:
    three = (confirmed(WINNER, 0.9), confirmed(OTHER, 0.9), confirmed(DEFAULT, 0.88))
    plain = verdict_to_plain(verdict(*differences, confirmed=three, recommended=recommended))
    assert (plain["take"], plain["reason"]) == (recommended, reason)
    assert f"`{reason}`" in PAGE


def test_without_the_default_the_reason_is_that_it_was_not_confirmed() -> None:
    alone = verdict(apart("trial 4", OTHER, 0.1, 0.2), confirmed=(confirmed(WINNER, 0.9), confirmed(OTHER, 0.8)))
    assert verdict_to_plain(alone)["reason"] == "the default was not confirmed"
    assert "`the default was not confirmed`" in PAGE
