"""How much of a lead is luck of the rows, held against searches of which the luck is known."""

import numpy as np
import pytest

from hpo.verdict.comparison import seed_noise
from hpo.verdict.luck import bias_of_choice, luck_of_rows, spread_of_rows
from tests.verdict.confirmed import answered, runs

TRIALS = 40


def luck_and_estimate(truth_spread: float, of_rows: float, of_seeds: float) -> tuple[float, float]:
    """Return the mean luck of the winners of simulated searches, and what the estimate of it came to."""
    lucky, estimated = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth = truth_spread * random.standard_normal(TRIALS)
        luck = of_rows * random.standard_normal(TRIALS)
        scores = truth + luck + of_seeds * random.standard_normal(TRIALS)
        again = truth + luck + of_seeds / 2 * random.standard_normal(TRIALS)
        best = np.argsort(-scores)[:3]
        lucky.append(luck[best[again[best].argmax()]])
        estimated.append(luck_of_rows(scores.tolist(), of_rows, of_seeds, finalists=3, seeds=4))
    return float(np.mean(lucky)), float(np.mean(estimated))


@pytest.mark.parametrize(("truth_spread", "of_seeds"), [(0.0, 0.0), (0.0, 0.01), (0.01, 0.0), (0.02, 0.01)])
def test_it_is_near_the_luck_that_there_is(truth_spread: float, of_seeds: float) -> None:
    lucky, estimated = luck_and_estimate(truth_spread, 0.01, of_seeds)

    assert 0.75 * lucky < estimated < 1.6 * lucky


def test_broken_trials_do_not_hide_it() -> None:
    """As far as broken ones are off, they would make what the others are apart look like truth."""
    random = np.random.default_rng(1)
    equal = (0.88 + 0.01 * random.standard_normal(21)).tolist()

    alone = luck_of_rows(equal, 0.01, 0.0, 3, 4)
    beside_broken = luck_of_rows([*equal, *[0.5 + place / 100 for place in range(19)]], 0.01, 0.0, 3, 4)

    assert beside_broken > 0.8 * alone > 0


def test_there_is_none_where_rows_do_not_matter_or_nothing_was_chosen() -> None:
    assert luck_of_rows([0.8, 0.9, 0.85, 0.7], 0.0, 0.01, 3, 4) == 0
    assert luck_of_rows([0.8], 0.01, 0.01, 3, 4) == 0
    assert luck_of_rows([], 0.01, 0.01, 3, 4) == 0
    assert bias_of_choice([0.8, 0.9], [], [runs([0.8, 0.9])]) == 0


def test_it_is_the_same_whenever_it_is_asked_for() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.01, TRIALS).tolist()

    assert luck_of_rows(scores, 0.01, 0.01, 3, 4) == luck_of_rows(scores, 0.01, 0.01, 3, 4)


def test_less_is_luck_where_the_truth_is_further_apart() -> None:
    random = np.random.default_rng(0)
    near, far = (random.normal(0.8, spread, TRIALS).tolist() for spread in (0.01, 0.2))

    assert luck_of_rows(near, 0.01, 0.0, 3, 4) > 2 * luck_of_rows(far, 0.01, 0.0, 3, 4)


def test_the_spread_of_rows_is_that_of_configurations_not_of_seeds_or_hard_rows() -> None:
    """Rows that suit one configuration, beside rows that are hard for all and runs that err anywhere."""
    random = np.random.default_rng(5)
    rows, seeds = 4000, 4
    hard = 2.0 * random.standard_normal(rows)
    suits = 1.0 * random.standard_normal((6, rows))
    correct = hard + suits[:, None] + 1.0 * random.standard_normal((6, seeds, rows)) > -1
    compared = [answered(of) for of in correct]

    found = spread_of_rows(compared, seed_noise(compared))

    # What many seeds answer on average differs between configurations for what suits them alone.
    many = (hard + suits[:, None] + random.standard_normal((6, 200, rows)) > -1).mean(axis=1)
    expected = np.mean([np.var(one - other) for place, one in enumerate(many) for other in many[:place]]) / 2 / rows
    assert found**2 == pytest.approx(expected, rel=0.15)


def test_equal_answers_have_no_spread() -> None:
    alike = answered(np.random.default_rng(0).random((1, 100)) < 0.8)

    assert spread_of_rows([alike, alike], seed_noise([alike, alike])) == 0
    assert spread_of_rows([alike], seed_noise([alike])) == 0
