"""How much of a winner's lead is the luck of the rows that it was chosen by, where no others were kept."""

from collections.abc import Sequence

import numpy as np

SIMULATIONS = 2000


def luck_of_rows(scores: Sequence[float], of_rows: float, of_seeds: float, finalists: int, seeds: int) -> float:
    """Return by how much the choice is expected to overrate its winner on these rows, in the objective's unit.

    Fresh seeds do not refresh rows: of forty equal configurations the one that suits the rows best looks better than
    it is, however often it is trained again. The search is simulated on what its scores say of the truth, drawn
    together to their mean by as much as noise has spread them, and the winner chosen as it was: the best few by one
    seed, of these the best by several.

    Args:
        scores: of the completed trials of the search.
        of_rows: standard deviation of a configuration's score over sets of rows of this size, less what all
            configurations share.
        of_seeds: standard deviation of a run's score over seeds.
        finalists: how many were trained again.
        seeds: under how many seeds each.
    """
    observed = np.asarray(scores, dtype=np.float64)
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
