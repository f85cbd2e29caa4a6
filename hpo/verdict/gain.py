"""Gain so far: what a search has gained over its default, less its selection bias, against the noise of scores.

It tells while trials still train whether there is anything to tune. The noise is that of the rows, and of seeds where
the default was trained on two. Rows that are hard for both configurations count twice, unlike in the verdict, which
pairs them: so the interval is rather too wide. `docs/verdict.md` has how often it holds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np

from hpo.messages import ScoredStanding, Scores, Standing
from hpo.metrics.jackknife import standard_error
from hpo.store.results import StudyResults
from hpo.verdict.comparison import COVERAGE
from hpo.verdict.findings import Interval
from hpo.verdict.selection_bias import ScoreNoise, simulated_selection_bias
from hpo.verdict.wording import amount, in_points

FEWEST = 3
"""Completed trials besides the default below which nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What the best trial so far scores above the default."""

    trial: int
    gain: float
    """Less the selection bias, in the unit of the metric."""
    interval: Interval
    noise: float
    """Standard deviation of a single score."""


def scored(standing: Standing, results: StudyResults) -> Standing:
    """Return how a study stands with what its gain follows from, where its default has completed."""
    if results.default is None or results.default.state != "COMPLETE" or results.default.validation is None:
        return standing
    return ScoredStanding(**asdict(standing), default=results.default.validation, others=_others(results))


def _others(results: StudyResults) -> dict[int, float]:
    """Return trial -> score of those that completed and are not the default."""
    return {trial.number: trial.score or 0.0 for trial in results.leaderboard if trial.proposed_by != "default"}


def gain_so_far(results: StudyResults) -> Gain | None:
    """Return the gain of a study; None where too few trials have completed, or the noise of its metric is not known."""
    default = results.default
    if default is None or default.state != "COMPLETE" or default.validation is None:
        return None
    of_default = [trial.score or 0.0 for trial in results.leaderboard if trial.proposed_by == "default"]
    return gain_over_default(
        _others(results),
        default.validation,
        beta=results.configuration.get("task", {}).get("beta"),
        seeds=float(np.std(of_default, ddof=1)) if len(of_default) > 1 else 0.0,
    )


def gain_over_default(
    others: Mapping[int, float], default: Scores, *, beta: float | None = None, seeds: float = 0.0
) -> Gain | None:
    """Return the gain of the best of `others`, trial -> score, over the default; None as `gain_so_far` does.

    Args:
        others: that have completed.
        default: scores of the default.
        beta: of `fbeta` and its kin.
        seeds: standard deviation of a score over seeds; 0 where that is not known.
    """
    rows = standard_error(default, beta)
    if len(others) < FEWEST or rows is None:
        return None
    noise = float(np.hypot(rows, seeds))
    best = max(others, key=others.__getitem__)
    # All of the noise is of the scores that the best was chosen by: none is drawn anew, as it is in a confirmation.
    all_noise = ScoreNoise(rows=noise, passing=0.0, lasting=0.0)
    scores = (default.objective, *others.values())
    bias = simulated_selection_bias(scores, all_noise, 1, 0, unseen=False, left_out=True).winner
    gain, half = others[best] - default.objective - bias, NormalDist().inv_cdf((1 + COVERAGE) / 2) * 2**0.5 * noise
    return Gain(trial=best, gain=gain, interval=Interval(low=gain - half, high=gain + half), noise=noise)


def gain_sentences(results: StudyResults) -> tuple[str, ...]:
    """Return a sentence on the gain so far; none where it is not known, or runs were confirmed, which say more."""
    found = None if results.confirmation else gain_so_far(results)
    return () if found is None else (gain_in_words(found, results.metric),)


def gain_in_words(gain: Gain, metric: str) -> str:
    """Return a sentence on a gain."""
    beyond = "more than" if gain.interval.low > 0 else "within"
    return (
        f"Trial {gain.trial} against the default so far, less selection bias: {amount(metric, gain.gain)} "
        f"{in_points(metric, gain.interval)}, {beyond} the noise of single scores."
    )
