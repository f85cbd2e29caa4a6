"""Gain so far: lead of the best trial over the default during a search, minus selection bias, with its noise.

It shows while trials still train whether tuning helps. The noise is that over rows, and over seeds if the default was
trained on two. Unlike the verdict, it does not pair the rows of the two configurations, so its interval tends to be too
wide; `docs/verdict.md` has the measured coverage. It is about the trials so far, not about what others could reach.
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
ENOUGH = 8
"""Completed trials besides the default from which on it is said that none is shown to be better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Lead of the best trial so far over the default."""

    trial: int
    gain: float
    """The lead minus its selection bias, in the unit of the metric."""
    interval: Interval
    noise: float
    """Standard deviation of a single score."""
    trials: int
    """Number of completed trials besides the default."""


def scored(standing: Standing, results: StudyResults) -> Standing:
    """Return a study's progress, with the scores that determine its gain if its default has completed."""
    default = results.completed_default
    if default is None or default.validation is None:
        return standing
    return ScoredStanding(**asdict(standing), default=default.validation, others=_others(results))


def _others(results: StudyResults) -> dict[int, float]:
    """Return trial -> score of the completed trials except the default."""
    return {trial.number: trial.score or 0.0 for trial in results.leaderboard if trial.proposed_by != "default"}


def gain_so_far(results: StudyResults) -> Gain | None:
    """Return the gain of a study; None if too few trials have completed, or the noise of its metric is unknown."""
    default = results.completed_default
    if default is None or default.validation is None:
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
    """Return the gain of the best trial over the default; None in the cases of `gain_so_far`.

    Args:
        others: trial -> score of the other completed trials.
        default: scores of the default.
        beta: parameter of the F-beta metrics.
        seeds: standard deviation of a score over seeds; 0 if unknown.
    """
    rows = standard_error(default, beta)
    if len(others) < FEWEST or rows is None:
        return None
    noise = float(np.hypot(rows, seeds))
    best = max(others, key=others.__getitem__)
    # All noise is in the scores that the best was chosen by; unlike in a confirmation, no score is drawn anew.
    all_noise = ScoreNoise(rows=noise, passing=0.0, lasting=0.0)
    scores = (default.objective, *others.values())
    bias = simulated_selection_bias(scores, all_noise, 1, 0, unseen=False, left_out=True).winner
    gain, half = others[best] - default.objective - bias, NormalDist().inv_cdf((1 + COVERAGE) / 2) * 2**0.5 * noise
    interval = Interval(low=gain - half, high=gain + half)
    return Gain(trial=best, gain=gain, interval=interval, noise=noise, trials=len(others))


def gain_sentences(results: StudyResults) -> tuple[str, ...]:
    """Return what the gain so far says; empty if it is unknown, or if confirming runs have better evidence."""
    found = None if results.confirmation else gain_so_far(results)
    return () if found is None else (gain_in_words(found, results.metric),)


def gain_in_words(gain: Gain, metric: str) -> str:
    """Return a sentence on a gain, and after enough trials without one a second, on all of them."""
    beyond = "more than" if gain.interval.low > 0 else "within"
    first = (
        f"Trial {gain.trial} against the default so far, less selection bias: {amount(metric, gain.gain)} "
        f"{in_points(metric, gain.interval)}, {beyond} the noise of single scores."
    )
    if gain.trials < ENOUGH or gain.interval.low > 0:
        return first
    second = f"None of the {gain.trials} trials completed besides the default is shown to be better"
    if gain.interval.high <= 0:
        return f"{first} {second}; the default is the best so far."
    most = amount(metric, gain.interval.high)
    return f"{first} {second}; by this interval the best of them is better by at most {most}."
