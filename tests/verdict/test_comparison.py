"""Interval of a difference, compared with independent formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo.verdict.comparison import Runs, SeedNoise, difference, interval_of, seed_noise
from tests.verdict.confirmed import answered, runs

KNOWN = SeedNoise(0.0, 0.0, 0)


def test_of_models_without_seeds_it_is_the_paired_t_interval_over_rows() -> None:
    random = np.random.default_rng(1)
    one, other = random.random((2, 1, 300)) < np.array([[[0.8]], [[0.7]]])

    lead, interval = difference(answered(one), answered(other), KNOWN)

    paired = stats.ttest_rel(one[0].astype(float), other[0].astype(float))
    low, high = paired.confidence_interval(0.95)
    assert lead == pytest.approx(one.mean() - other.mean())
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_of_seeds_alone_it_is_the_t_interval_of_two_samples_with_pooled_variance() -> None:
    one, other = [0.90, 0.93, 0.91], [0.88, 0.87, 0.86, 0.89]
    compared = runs(one), runs(other)

    lead, interval = difference(*compared, seed_noise(compared))

    low, high = stats.ttest_ind(one, other).confidence_interval(0.95)
    assert lead == pytest.approx(np.mean(one) - np.mean(other))
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_seed_variance_is_pooled_over_all_that_have_several_seeds() -> None:
    noise = seed_noise([runs([0.8, 0.9]), runs([0.7, 0.7, 0.8]), runs([0.2]), runs([0.0, 1.0], seeded=False)])

    by_hand = 2 * 0.05**2 + 2 * (0.1 / 3) ** 2 + (0.2 / 3) ** 2
    assert noise.variance == pytest.approx(by_hand / 3)
    assert noise.degrees == 3


def test_without_two_seeds_of_anything_no_noise_is_known() -> None:
    assert seed_noise([runs([0.8]), runs([0.7])]) == SeedNoise(0.0, 0.0, 0)


def test_what_seeds_do_to_rows_is_counted_once() -> None:
    """Runs that only err on other rows move the mean as the jackknife over rows says, and no further."""
    random = np.random.default_rng(2)
    compared = [answered(random.random((40, 500)) < 0.8) for _ in range(2)]
    noise = seed_noise(compared)

    _, interval = difference(*compared, noise)

    of_mean = 2 * 0.8 * 0.2 / 500 / 40
    half = (interval.high - interval.low) / 2
    assert noise.variance == pytest.approx(noise.of_rows, rel=0.3)
    assert half == pytest.approx(1.96 * of_mean**0.5, rel=0.15)


def test_rows_of_the_same_difficulty_for_both_cancel() -> None:
    random = np.random.default_rng(3)
    hard = random.random((1, 500)) < 0.8
    alike = answered(np.repeat(hard, 3, axis=0))

    _, interval = difference(alike, alike, seed_noise([alike]))

    assert (interval.low, interval.high) == (0.0, 0.0)
    assert interval_of(alike, KNOWN).high - alike.mean > 0.03


def test_degrees_of_freedom_are_those_of_satterthwaite() -> None:
    deviations = np.array([[0.01, -0.02, 0.01]])
    one, other = Runs(np.array([0.9]), deviations), Runs(np.array([0.8]), np.zeros((1, 3)), seeded=False)
    noise = SeedNoise(0.0004, 0.0001, 5)

    _, interval = difference(one, other, noise)

    examples, seeds = 0.0006, 0.0003
    degrees = (examples + seeds) ** 2 / (examples**2 / 2 + 0.0004**2 / 5)
    assert interval.high - 0.1 == pytest.approx(stats.t.ppf(0.975, degrees) * (examples + seeds) ** 0.5)


def test_the_bias_moves_the_interval_as_it_is() -> None:
    one, other = runs([0.90, 0.91, 0.92]), runs([0.88, 0.88, 0.88])
    noise = seed_noise([one, other])

    plain, plain_interval = difference(one, other, noise)
    lead, interval = difference(one, other, noise, bias=0.01)

    assert lead == pytest.approx(plain - 0.01)
    assert interval.low == pytest.approx(plain_interval.low - 0.01)
    assert interval.high == pytest.approx(plain_interval.high - 0.01)


def test_only_where_rows_have_shown_nothing_is_an_interval_that_of_what_they_may_hide() -> None:
    """By the rule of three; a metric that moves much with a row, such as log loss, keeps the variance that it has."""
    shown, hidden = ([[0.01, -0.01, 0.0]] * 2), ([[0.0, 0.0, 0.0]] * 2)
    noise = SeedNoise(0.0, 0.0, 1)
    by_rows, least = (
        difference(runs([0.9, 0.9], one, of_a_unit=0.05), runs([0.8, 0.8], hidden), noise)[1] for one in (shown, hidden)
    )

    assert by_rows == difference(runs([0.9, 0.9], shown), runs([0.8, 0.8], hidden), noise)[1]
    assert (least.low, least.high) == pytest.approx((0.1 - 0.05 * np.log(40), 0.1 + 0.05 * np.log(40)))


def test_more_coverage_is_a_wider_interval_of_the_same_middle() -> None:
    one, other = runs([0.90, 0.91, 0.92]), runs([0.88, 0.89, 0.87])
    (middle, narrow), (same, wide) = (
        difference(one, other, seed_noise([one, other]), coverage=share) for share in (0.8, 0.95)
    )

    assert middle == same
    assert wide.low < narrow.low < middle < narrow.high < wide.high


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.floats(0, 1),
)
def test_turned_round_it_is_the_negative(one: list[float], other: list[float], spread: float) -> None:
    compared = runs(one), runs(other)
    noise = SeedNoise(spread, 0.0, 3)

    lead, interval = difference(*compared, noise)
    turned, turned_interval = difference(compared[1], compared[0], noise)

    assert turned == pytest.approx(-lead)
    assert (turned_interval.low, turned_interval.high) == pytest.approx((-interval.high, -interval.low))
    assert interval.low <= lead <= interval.high
