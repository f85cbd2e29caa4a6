"""Selection bias of a confirmed score: from the rows that it was chosen by, and from the runs that decided the race.

Rows that the search never saw have no bias of the first kind. Against the second, the verdict leaves out the winner's
runs that decided the race, if it has others; runs of eliminated finalists are biased downwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import fmean

import numpy as np

from hpo.verdict.comparison import Runs, SeedNoise

SIMULATIONS = 2000
DRAWS = 200_000
"""Largest number of drawn scores: a long search has fewer simulations, each of which has more information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionBias:
    """Expected bias of confirmed scores, in the unit of the metric."""

    winner: float = 0.0
    others: float = 0.0
    """Bias of the eliminated finalists; negative, as far as low-scoring seeds eliminated them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreNoise:
    """Standard deviations of a score on the rows that the search chose by."""

    rows: float
    """Deviation of a configuration over sets of rows of this size, without the part that all configurations share."""
    passing: float
    """Deviation of runs because each errs on different rows; it does not carry over to unseen rows."""
    lasting: float
    """Deviation of runs over seeds on any rows."""

    @property
    def of_run(self) -> float:
        """Deviation of runs over seeds on these rows."""
        return float(np.hypot(self.passing, self.lasting))


def deviation_over_rows(confirmed: Sequence[Runs], noise: SeedNoise) -> float:
    """Return the standard deviation of a configuration's score over sets of rows, without the part that all share.

    Its square is half the mean variance of the differences between two configurations, minus the part of their seeds.
    """
    pairs = [
        float(((one.deviations.mean(axis=0) - other.deviations.mean(axis=0)) ** 2).sum())
        - noise.of_rows * (one.share_of_seeds + other.share_of_seeds)
        for one, other in combinations(confirmed, 2)
    ]
    return float(max(0.0, fmean(pairs) / 2) ** 0.5) if pairs else 0.0


@lru_cache(maxsize=32)
def simulated_selection_bias(
    scores: tuple[float, ...], noise: ScoreNoise, finalists: int, deciding: int, *, unseen: bool, left_out: bool
) -> SelectionBias:
    """Return the expected bias of the scores of the winner and of the eliminated finalists.

    Fresh seeds do not remove the bias of the rows: among forty equal configurations, the one that suits the rows best
    scores too high however often it is trained again. The search is simulated. True scores are the observed ones,
    shrunk towards their mean by the variance of the noise. The winner is chosen as in the search: the finalists by one
    seed, and among these the winner by the deciding runs. Only the better half of the trials is simulated: the others
    are never chosen, and a few failed ones would make the spread of the better ones look like true differences.

    Args:
        scores: scores of the trials of the search.
        noise: noise of a score on the rows that the search chose by.
        finalists: number of trials that were trained again.
        deciding: number of runs of each that decided between them; 0 for a finalist without rivals.
        unseen: true if the verdict is on other rows.
        left_out: true if the winner's score does not contain its deciding runs.
    """
    observed = np.sort(np.asarray(scores, dtype=np.float64))[len(scores) // 2 :]
    if len(observed) < 2:
        return SelectionBias()
    spread = float(observed.var(ddof=1))
    share = max(0.0, 1 - (noise.rows**2 + noise.of_run**2) / spread) if spread else 0.0
    truth = observed.mean() + share**0.5 * (observed - observed.mean())
    random = np.random.default_rng(0)
    shape = min(SIMULATIONS, max(1, DRAWS // len(truth))), len(truth)
    of_rows = noise.rows * random.standard_normal(shape)
    searched = truth + of_rows + noise.of_run * random.standard_normal(shape)
    best = np.argpartition(-searched, min(finalists, len(truth)) - 1, axis=1)[:, :finalists]
    of_rows = np.take_along_axis(of_rows, best, axis=1)
    runs = max(1, deciding) ** -0.5 * random.standard_normal((2, *best.shape))
    lasting, passing = noise.lasting * runs[0], noise.passing * runs[1]
    decided = truth[best] + of_rows + (lasting + passing if deciding else 0.0)
    of_runs = lasting if unseen else lasting + passing
    winner = np.arange(best.shape[1]) == decided.argmax(axis=1)[:, None]
    of_winner = (0.0 if unseen else of_rows[winner].mean()) + (0.0 if left_out else of_runs[winner].mean())
    if best.shape[1] == 1:
        return SelectionBias(winner=max(0.0, float(of_winner)))
    fallen = of_runs if unseen else of_rows + of_runs
    return SelectionBias(winner=max(0.0, float(of_winner)), others=float(fallen[~winner].mean()))
