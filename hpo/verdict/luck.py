"""How much of a winner's lead is the luck of the rows that it was chosen by, where no others were kept."""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from hpo.verdict.comparison import Runs, SeedNoise, seed_noise

SIMULATIONS = 2000


def bias_of_choice(scores: Sequence[float], finalists: Sequence[Runs], confirmed: Sequence[Runs]) -> float:
    """Return by how much a winner is likely overrated that was chosen and confirmed on the same rows.

    Args:
        scores: of the completed trials of the search.
        finalists: what was confirmed of them, without the default.
        confirmed: that, and the default.
    """
    if not finalists:
        return 0.0
    noise = seed_noise(confirmed)
    seeds = max(len(runs.scores) for runs in finalists)
    return luck_of_rows(scores, spread_of_rows(confirmed, noise), noise.variance**0.5, len(finalists), seeds)


def spread_of_rows(confirmed: Sequence[Runs], noise: SeedNoise) -> float:
    """Return the standard deviation of a configuration's score over sets of rows, less what all of them share.

    Half the mean variance of the differences between two of them, less what is for their seeds and evens out.
    """
    pairs = [
        _squares(one.deviations.mean(axis=0) - other.deviations.mean(axis=0))
        - noise.of_rows * (one.share_of_seeds + other.share_of_seeds)
        for one, other in combinations(confirmed, 2)
    ]
    return float(max(0.0, fmean(pairs) / 2) ** 0.5) if pairs else 0.0


def luck_of_rows(scores: Sequence[float], of_rows: float, of_seeds: float, finalists: int, seeds: int) -> float:
    """Return by how much the choice is expected to overrate its winner on these rows, in the objective's unit.

    Fresh seeds do not refresh rows: of forty equal configurations the one that suits the rows best looks better than
    it is, however often it is trained again. The search is simulated on what its scores say of the truth, drawn
    together to their mean by as much as noise has spread them, and the winner chosen as it was: the best few by one
    seed, of these the best by several. The better half of the trials is simulated: the others do not come into
    question, and as few of them as are broken would make all that the better ones are apart look like truth.

    Args:
        scores: of the completed trials of the search.
        of_rows: standard deviation of a configuration's score over sets of rows of this size, less what all
            configurations share.
        of_seeds: standard deviation of a run's score over seeds.
        finalists: how many were trained again.
        seeds: under how many seeds each.
    """
    observed = np.sort(np.asarray(scores, dtype=np.float64))[len(scores) // 2 :]
    if len(observed) < 2 or of_rows == 0:
        return 0.0
    spread = float(observed.var(ddof=1))
    share = max(0.0, 1 - (of_rows**2 + of_seeds**2) / spread) if spread else 0.0
    truth = observed.mean() + share**0.5 * (observed - observed.mean())
    random = np.random.default_rng(0)
    luck = of_rows * random.standard_normal((SIMULATIONS, len(truth)))
    searched = truth + luck + of_seeds * random.standard_normal(luck.shape)
    best = np.argsort(-searched, axis=1)[:, : max(1, finalists)]
    again = np.take_along_axis(truth + luck, best, axis=1)
    again += of_seeds / max(1, seeds) ** 0.5 * random.standard_normal(again.shape)
    winner = np.take_along_axis(best, again.argmax(axis=1)[:, None], axis=1)
    return max(0.0, float(np.take_along_axis(luck, winner, axis=1).mean()))


def _squares(deviations: NDArray[np.float64]) -> float:
    return float((deviations**2).sum())
