"""The gain of a search so far: against hand-made scores, and how often it is right in simulated searches."""

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from hpo.messages import Scores
from hpo.verdict.gain import FEWEST, gain_in_words, gain_over_default, gain_sentences, gain_so_far
from tests.verdict.confirmed import confirming, study, trial

ROWS, SHARE = 400, 0.9
ERROR = (SHARE * (1 - SHARE) / (ROWS - 1)) ** 0.5
"""Standard error of a share of so many rows."""


def accuracy(share: float, rows: int = ROWS) -> Scores:
    right = round(share * rows / 2)
    wrong = rows // 2 - right
    return Scores(metric="accuracy", values={"accuracy": share}, rows=rows, confusion=((right, wrong), (wrong, right)))


def searched(*others: float, **changes: Any) -> Any:
    default = trial(0, SHARE, validation=accuracy(SHARE))
    return study([default, *(trial(n, score) for n, score in enumerate(others, 1))], **{"metric": "accuracy"} | changes)


def test_a_gain_is_the_lead_over_the_default_less_a_bias_and_as_uncertain_as_two_scores() -> None:
    found = gain_so_far(searched(0.91, 0.95, 0.89, 0.9))
    assert found is not None
    assert found.trial == 2
    assert found.noise == pytest.approx(ERROR, rel=1e-3)
    assert 0 < found.gain < 0.05
    half = NormalDist().inv_cdf(0.975) * 2**0.5 * ERROR
    assert (found.interval.low, found.interval.high) == pytest.approx((found.gain - half, found.gain + half), rel=1e-3)


def test_the_noise_of_seeds_counts_once_the_default_was_trained_on_two() -> None:
    again = trial(9, SHARE + 0.04, proposed_by="default", validation=accuracy(SHARE + 0.04))
    results = searched(0.91, 0.95, 0.89)
    found = gain_so_far(study([*results.trials, again], metric="accuracy"))
    assert found is not None
    assert found.noise == pytest.approx((ERROR**2 + 0.04**2 / 2) ** 0.5, rel=1e-3)


def test_of_equal_configurations_none_is_said_to_gain_and_the_interval_holds() -> None:
    random, beyond, held = np.random.default_rng(0), 0, 0
    for _ in range(200):
        default, *others = random.normal(0.0, ERROR, 20).tolist()
        found = gain_over_default({n: SHARE - default + one for n, one in enumerate(others)}, accuracy(SHARE))
        assert found is not None
        beyond += found.interval.low > 0
        held += found.interval.low <= 0 <= found.interval.high
    assert beyond <= 0.05 * 200
    assert held >= 0.92 * 200


def test_a_large_gain_is_more_than_the_noise() -> None:
    [said] = gain_sentences(searched(0.9, 0.99, 0.88))
    assert said.startswith("Trial 2 against the default so far, less selection bias: ")
    assert said.endswith("], more than the noise of single scores.")
    [said] = gain_sentences(searched(0.9, 0.91, 0.88))
    assert said.endswith("], within the noise of single scores.")
    assert "accuracy points [" in said


def test_after_eight_trials_it_is_said_that_none_is_shown_to_be_better() -> None:
    [said] = gain_sentences(searched(0.91, 0.92, *[0.9] * 6))
    found = gain_so_far(searched(0.91, 0.92, *[0.9] * 6))
    assert found is not None
    assert found.interval.low <= 0 < found.interval.high
    assert said.endswith(
        " None of the 8 trials completed besides the default is shown to be better; by this interval the best of them "
        f"is better by at most {100 * found.interval.high:.1f} accuracy points."
    )
    [said] = gain_sentences(searched(*[0.8] * 9))
    assert said.endswith(
        " None of the 9 trials completed besides the default is shown to be better; the default is the best so far."
    )
    for others in ([0.91, 0.92, *[0.9] * 5], [0.99, *[0.9] * 8]):
        [said] = gain_sentences(searched(*others))
        assert said.endswith("the noise of single scores."), "too few trials, or one that is better"


def test_nothing_is_said_where_nothing_is_known_or_a_confirmation_says_more() -> None:
    assert gain_sentences(searched(*[0.9] * (FEWEST - 1))) == ()
    assert gain_sentences(study([trial(0, None, state="PRUNED"), *(trial(n, 0.9) for n in range(1, 9))])) == ()
    losses = Scores(metric="neg_log_loss", values={"neg_log_loss": -0.3}, rows=ROWS, confusion=((1, 0), (0, 1)))
    assert gain_over_default({1: -0.2, 2: -0.2, 3: -0.2}, losses) is None
    confirmed = searched(0.91, 0.95, 0.89)
    runs = {"confirmation": tuple(confirming(2, [0.9, 0.9]))}
    assert gain_sentences(study(confirmed.trials, metric="accuracy", **runs)) == ()


def test_a_metric_that_is_no_share_is_in_its_own_unit() -> None:
    found = gain_so_far(searched(0.91, 0.95, 0.89))
    assert found is not None
    assert "points" not in gain_in_words(found, "neg_rmse")
