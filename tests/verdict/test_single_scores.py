"""Intervals of a look at the test split, and of a run under another seed."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from hpo.store.results import TestEvaluation as Look  # pytest would collect it
from hpo.verdict.comparison import interval_of_test, under_another_seed
from tests.verdict.confirmed import answered, confirming, held_out, study, trial


def look(correct: np.ndarray, of_a_unit: float = 0.0) -> Look:  # type: ignore[type-arg]
    run = answered(correct[None])
    found = held_out(float(correct.mean()), run.deviations[0].tolist(), "accuracy", of_a_unit)
    return Look(trial=3, held_out=found, read_at=0.0)


def test_a_test_score_has_the_interval_of_its_rows() -> None:
    """That of a share: 0.8 of 400 has a standard error of 0.02."""
    found = interval_of_test(look(np.arange(400) % 5 > 0))

    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.8 - 1.966 * 0.02, 0.8 + 1.966 * 0.02), abs=1e-4)


def test_a_test_split_without_an_error_is_not_sure_of_there_being_none() -> None:
    found = interval_of_test(look(np.ones(400, dtype=bool), of_a_unit=1 / 400))

    assert found is not None
    assert found.low == pytest.approx(binomtest(400, 400).proportion_ci().low, abs=1e-4)
    assert found.high == 1


def test_without_a_jackknife_there_is_none() -> None:
    assert interval_of_test(Look(trial=3, held_out=held_out(0.9, ()), read_at=0.0)) is None


def test_another_seed_of_what_was_confirmed_scores_about_the_mean_of_its_runs() -> None:
    """Not about its score in the search; known answer: scipy's t, six degrees of freedom over both."""
    of = {0: [0.80, 0.81, 0.82, 0.81], 2: [0.88, 0.90, 0.89, 0.89]}
    results = study([trial(0, 0.8), trial(2, 0.95)], *(confirming(one, several) for one, several in of.items()))

    found = under_another_seed(results, results.trials[1])

    half = stats.t.ppf(0.975, 6) * (np.mean([np.var(one, ddof=1) for one in of.values()]) * 5 / 4) ** 0.5
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.89 - half, 0.89 + half))


def test_it_holds_the_next_run_in_95_of_100_cases() -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(400):
        *first, following = random.normal(0.9, 0.01, 5).tolist()
        results = study(
            [trial(0, 0.8), trial(2, 0.95)], confirming(2, first), confirming(0, random.normal(0.8, 0.01, 4))
        )
        found = under_another_seed(results, results.trials[1])
        assert found is not None
        held.append(found.low <= following <= found.high)

    assert binomtest(sum(held), 400, 0.95).pvalue > 0.01


def test_where_nothing_was_confirmed_the_defaults_two_seeds_tell() -> None:
    again = trial(1, 0.82, proposed_by="default")
    results = study([trial(0, 0.80), again, trial(2, 0.9)])

    found = under_another_seed(results, results.trials[2])

    assert found is not None
    assert found.high == 1
    assert found.low == pytest.approx(0.9 - stats.t.ppf(0.975, 1) * 2**0.5 * 0.02 / 2**0.5)
    assert under_another_seed(study([trial(0, 0.8), trial(2, 0.9)]), trial(2, 0.9)) is None
