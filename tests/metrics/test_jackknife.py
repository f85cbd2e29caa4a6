"""How much of a score is the choice of rows, held against formulas that need no jackknife."""

import numpy as np
import pytest

from hpo.metrics.jackknife import MOST_GROUPS, deviations, leave_out_groups, scale


def variance(correct: np.ndarray, groups: np.ndarray) -> float:
    """Return the variance of accuracy over rows."""
    return sum(one**2 for one in deviations(lambda kept: float(correct[kept].mean()), groups))


def test_leaving_out_one_row_at_a_time_gives_the_variance_of_a_mean() -> None:
    correct = np.array([True] * 70 + [False] * 30)

    assert variance(correct, np.arange(100)) == pytest.approx(0.7 * 0.3 / 99)


def test_leaving_out_groups_is_near_it() -> None:
    correct = np.random.default_rng(0).random(20_000) < 0.8
    groups = leave_out_groups(np.arange(20_000), 1)

    assert variance(correct, groups) == pytest.approx(0.8 * 0.2 / 20_000, rel=0.25)


def test_rows_that_err_together_weigh_more() -> None:
    """Documents of ten rows that are all right or all wrong say as much as a tenth of the rows."""
    documents = np.repeat(np.arange(200), 10)
    correct = (np.random.default_rng(0).random(200) < 0.7)[documents]
    share = correct.mean()

    found = variance(correct, leave_out_groups(documents, 0))

    assert found == pytest.approx(share * (1 - share) / 199)


def test_of_f1_it_is_what_the_delta_method_says() -> None:
    random = np.random.default_rng(3)
    true = random.random(4000) < 0.3
    said = np.where(random.random(4000) < 0.85, true, ~true)
    hits, guesses, support = (true & said).astype(float), said.astype(float), true.astype(float)

    found = sum(
        one**2
        for one in deviations(
            lambda kept: 2 * hits[kept].sum() / (guesses[kept].sum() + support[kept].sum()),
            leave_out_groups(np.arange(4000), 0),
        )
    )

    f1 = 2 * hits.sum() / (guesses.sum() + support.sum())
    influence = (2 * hits - f1 * (guesses + support)) / (guesses + support).mean()
    assert found == pytest.approx(influence.var() / 4000, rel=0.25)


def test_products_add_up_to_the_covariance_of_two_models_on_the_same_rows() -> None:
    random = np.random.default_rng(4)
    hard = random.random(500) < 0.5
    one, other = (np.where(hard, random.random(500) < 0.6, True) for _ in range(2))
    rows = np.arange(500)

    first, second = (np.array(deviations(lambda kept, of=of: float(of[kept].mean()), rows)) for of in (one, other))

    assert first @ second == pytest.approx(np.cov(one, other)[0, 1] / 500)


def test_groups_are_of_like_size_and_never_split_a_unit() -> None:
    units = np.random.default_rng(0).integers(0, 450, 3000)
    units[:450] = np.arange(450)

    groups = leave_out_groups(units, 7)

    assert groups.max() + 1 == MOST_GROUPS
    assert all(len(set(groups[units == unit])) == 1 for unit in range(450))
    assert set(np.bincount(leave_out_groups(np.arange(450), 7)).tolist()) == {2, 3}


def test_few_units_are_as_many_groups() -> None:
    assert sorted(leave_out_groups(np.arange(3), 0).tolist()) == [0, 1, 2]


def test_another_seed_puts_others_together_and_the_same_one_the_same() -> None:
    rows = np.arange(1000)

    assert (leave_out_groups(rows, 1) == leave_out_groups(rows, 1)).all()
    assert (leave_out_groups(rows, 1) != leave_out_groups(rows, 2)).any()


def test_deviations_of_several_runs_are_scaled_each_by_itself() -> None:
    without = np.random.default_rng(0).random((3, 10))

    together = scale(without)

    assert (together == np.stack([scale(one) for one in without])).all()
    assert (together**2).sum(axis=1) == pytest.approx(0.9 * ((without.T - without.mean(axis=1)) ** 2).sum(axis=0))
