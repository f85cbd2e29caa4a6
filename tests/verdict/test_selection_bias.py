"""Selection bias, compared with simulated searches of which the bias is known."""

import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from hpo.verdict.comparison import seed_noise
from hpo.verdict.selection_bias import ScoreNoise, SelectionBias, deviation_over_rows, simulated_selection_bias
from tests.verdict.confirmed import answered

TRIALS = 40


def bias_of(
    scores: Sequence[float], of_rows: float, of_seeds: float, deciding: int = 1, *, unseen: bool = False, **rest: bool
) -> SelectionBias:
    noise = ScoreNoise(rows=of_rows, passing=0.0, lasting=of_seeds)
    return simulated_selection_bias(
        tuple(scores), noise, 3, deciding, unseen=unseen, left_out=rest.get("left_out", True)
    )


def simulated(
    truth_spread: float, of_rows: float, of_seeds: float
) -> Iterator[tuple[list[float], SelectionBias, float]]:
    """Yield (scores of a search, the bias of its winner's rows and of the others' runs, that of the winner's run)."""
    for seed in range(60):
        random = np.random.default_rng(seed)
        truth = truth_spread * random.standard_normal(TRIALS)
        of_these_rows = of_rows * random.standard_normal(TRIALS)
        scores = truth + of_these_rows + of_seeds * random.standard_normal(TRIALS)
        best = np.argsort(-scores)[:3]
        of_run = of_seeds * random.standard_normal(3)
        won = (truth[best] + of_these_rows[best] + of_run).argmax()
        others = np.delete(of_these_rows[best] + of_run, won).mean()
        yield scores.tolist(), SelectionBias(winner=of_these_rows[best[won]], others=others), of_run[won]


@pytest.mark.parametrize(("truth_spread", "of_seeds"), [(0.0, 0.0), (0.0, 0.01), (0.01, 0.0), (0.02, 0.01)])
def test_it_is_near_the_bias_that_there_is(truth_spread: float, of_seeds: float) -> None:
    there_is, found = [], []
    for scores, selection_bias, _ in simulated(truth_spread, 0.01, of_seeds):
        there_is.append((selection_bias.winner, selection_bias.others))
        estimate = bias_of(scores, 0.01, of_seeds)
        found.append((estimate.winner, estimate.others))

    winner, others = np.mean(there_is, axis=0)
    of_winner, of_others = np.mean(found, axis=0)

    assert 0.75 * winner < of_winner < 1.6 * winner
    assert of_others == pytest.approx(others, abs=0.005)


def test_on_unseen_rows_a_winner_by_the_runs_that_count_is_biased_upwards_and_who_fell_behind_downwards() -> None:
    """Of equal configurations: the expected largest of three normal deviates is 0.846 (Harter 1961)."""
    equal = (0.8 + 0.01 * np.random.default_rng(0).standard_normal(TRIALS)).tolist()

    counted, apart = (bias_of(equal, 0.0, 0.01, unseen=True, left_out=left_out) for left_out in (False, True))
    of_four = bias_of(equal, 0.0, 0.01, deciding=4, unseen=True, left_out=False)

    assert counted.winner == pytest.approx(0.846 * 0.01, rel=0.1)
    assert of_four.winner == pytest.approx(0.846 * 0.01 / 2, rel=0.1)
    assert apart.winner == 0
    assert apart.others == counted.others == pytest.approx(-0.846 * 0.01 / 2, rel=0.1)


def test_what_only_these_rows_make_of_a_run_is_no_bias_on_others() -> None:
    noise = ScoreNoise(rows=0.01, passing=0.01, lasting=0.0)
    scores = tuple(np.random.default_rng(0).normal(0.8, 0.01, TRIALS).tolist())

    assert simulated_selection_bias(scores, noise, 3, 1, unseen=True, left_out=False) == SelectionBias()


def test_broken_trials_do_not_hide_it() -> None:
    """As far as broken ones are off, they would make what the others are apart look like truth."""
    random = np.random.default_rng(1)
    equal = (0.88 + 0.01 * random.standard_normal(21)).tolist()

    alone = bias_of(equal, 0.01, 0.0).winner
    beside_broken = bias_of([*equal, *[0.5 + place / 100 for place in range(19)]], 0.01, 0.0).winner

    assert beside_broken > 0.8 * alone > 0


def test_there_is_none_where_rows_do_not_matter_or_nothing_was_chosen() -> None:
    assert bias_of([0.8, 0.9, 0.85, 0.7], 0.0, 0.01).winner == 0
    assert bias_of([0.8], 0.01, 0.01) == bias_of([], 0.01, 0.01) == SelectionBias()


def test_a_finalist_without_rivals_has_the_bias_of_the_search_alone() -> None:
    noise = ScoreNoise(rows=0.01, passing=0.0, lasting=0.01)

    alone = simulated_selection_bias(tuple(np.linspace(0.8, 0.82, 40)), noise, 1, 0, unseen=False, left_out=True)

    assert alone.winner > 0
    assert alone.others == 0


def test_it_is_the_same_whenever_it_is_asked_for() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.01, TRIALS).tolist()
    first = bias_of(scores, 0.01, 0.01)
    simulated_selection_bias.cache_clear()

    assert bias_of(scores, 0.01, 0.01) == first


def test_less_is_bias_where_the_truth_is_further_apart() -> None:
    random = np.random.default_rng(0)
    near, far = (random.normal(0.8, spread, TRIALS).tolist() for spread in (0.01, 0.2))

    assert bias_of(near, 0.01, 0.0).winner > 2 * bias_of(far, 0.01, 0.0).winner


def test_ten_thousand_trials_take_little_memory_and_tell_as_much() -> None:
    """All equal: the expected largest of the better half of 10,000, of which the best three are tried again."""
    scores = tuple(np.random.default_rng(0).normal(0.8, 0.01, 10_000).tolist())
    noise = ScoreNoise(rows=0.01, passing=0.0, lasting=0.0)
    tracemalloc.start()

    found = simulated_selection_bias(scores, noise, 3, 1, unseen=False, left_out=True)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * 2**20
    largest = np.random.default_rng(1).standard_normal((400, 5000)).max(axis=1).mean()
    assert found.winner == pytest.approx(0.01 * largest, rel=0.05)


def test_the_spread_of_rows_is_that_of_configurations_not_of_seeds_or_hard_rows() -> None:
    """Rows that suit one configuration, beside rows that are hard for all and runs that err anywhere."""
    random = np.random.default_rng(5)
    rows, seeds = 4000, 4
    hard = 2.0 * random.standard_normal(rows)
    suits = 1.0 * random.standard_normal((6, rows))
    correct = hard + suits[:, None] + 1.0 * random.standard_normal((6, seeds, rows)) > -1
    compared = [answered(of) for of in correct]

    found = deviation_over_rows(compared, seed_noise(compared))

    # What many seeds answer on average differs between configurations for what suits them alone.
    many = (hard + suits[:, None] + random.standard_normal((6, 200, rows)) > -1).mean(axis=1)
    expected = np.mean([np.var(one - other) for place, one in enumerate(many) for other in many[:place]]) / 2 / rows
    assert found**2 == pytest.approx(expected, rel=0.15)


def test_equal_answers_have_no_spread() -> None:
    alike = answered(np.random.default_rng(0).random((1, 100)) < 0.8)

    assert deviation_over_rows([alike, alike], seed_noise([alike, alike])) == 0
    assert deviation_over_rows([alike], seed_noise([alike])) == 0
