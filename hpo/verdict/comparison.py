"""Comparison of configurations: differences and single scores, with 95% intervals over examples and seeds.

A configuration is trained under several seeds, and each run is scored on the same rows. Its mean score is uncertain
for two reasons: other rows, and other seeds. The variance over rows is that of a jackknife, paired between
configurations: it is computed from the differences of their deviations. The variance over seeds is that of runs which
differ in their seed alone, pooled over all configurations, since each has few seeds. Runs differ under other seeds
partly because they err on other rows; both variances contain that part, so it is subtracted once.

If no row distinguishes two configurations, or no answer is wrong, the variance over rows is 0, although other rows may
differ: an event that did not occur in n rows may have a rate of up to ln(2 / (1 - coverage)) / n, or 3.7 / n at 95%
(the rule of three, Hanley and Lippman-Hand 1983). In that case the half-width of the interval is at least the average
effect of 3.7 rows, or groups of rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # The function behind scipy.stats.t.ppf, without half a second of import time.

from hpo.metrics.registry import limits_of
from hpo.store.results import StudyResults, TestEvaluation, TrialResult
from hpo.verdict.findings import Interval

COVERAGE = 0.95
ROUNDING = 1e-12
"""Largest absolute value that counts as a deviation of 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Scores of one configuration on the same rows under several seeds."""

    scores: NDArray[np.float64]
    """The scores, shape (seeds,)."""
    deviations: NDArray[np.float64]
    """Deviations of `hpo.messages.HeldOutEvaluation`, shape (seeds, groups of rows)."""
    seeded: bool = True
    """True if the score depends on the seed; false for a baseline."""
    of_a_unit: float = 0.0
    """`of_a_unit` of `hpo.messages.HeldOutEvaluation`."""

    def after(self, count: int) -> "Runs":
        """Return the runs without the first `count`."""
        return replace(self, scores=self.scores[count:], deviations=self.deviations[count:])

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(self.scores.mean())

    @property
    def share_of_seeds(self) -> float:
        """Factor of the variance over seeds in the variance of the mean."""
        return 1 / len(self.scores) if self.seeded else 0.0


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """Variance of runs of one configuration over seeds."""

    variance: float
    """Variance of the score on these rows, pooled over the configurations."""
    of_rows: float
    """The part of it that is due to runs erring on different rows, and averages out over more rows."""
    degrees: int
    """Degrees of freedom; 0 if no configuration has two seeds, so that the noise is unknown."""

    @property
    def lasting(self) -> float:
        """Variance over seeds that more rows would not average out."""
        return max(0.0, self.variance - self.of_rows)


def seed_noise(all_runs: Sequence[Runs]) -> SeedNoise:
    """Pool the variance over seeds of all configurations that have several."""
    several = [runs for runs in all_runs if runs.seeded and len(runs.scores) > 1]
    degrees = sum(len(runs.scores) - 1 for runs in several)
    if degrees == 0:
        return SeedNoise(0.0, 0.0, 0)
    scores = sum(float(((runs.scores - runs.mean) ** 2).sum()) for runs in several)
    rows = sum(float(((runs.deviations - runs.deviations.mean(axis=0)) ** 2).sum()) for runs in several)
    return SeedNoise(scores / degrees, rows / degrees, degrees)


def difference(
    runs: Runs, against: Runs, noise: SeedNoise, bias: float = 0.0, coverage: float = COVERAGE
) -> tuple[float, Interval]:
    """Return the difference between the scores of two configurations, and its interval.

    Args:
        runs: runs of the first configuration.
        against: runs of the second configuration on the same rows.
        noise: variance over seeds, pooled over these and other configurations.
        bias: selection bias, subtracted from the difference, in the unit of the metric.
        coverage: coverage of the interval, 0 to 1.
    """
    lead = runs.mean - against.mean - bias
    deviations = runs.deviations.mean(axis=0) - against.deviations.mean(axis=0)
    share, of_a_unit = runs.share_of_seeds + against.share_of_seeds, max(runs.of_a_unit, against.of_a_unit)
    return lead, _interval(lead, deviations, noise, share, of_a_unit, coverage)


def interval_of(runs: Runs, noise: SeedNoise, bias: float = 0.0) -> Interval:
    """Return the interval of a configuration's mean score minus `bias`."""
    return _interval(
        runs.mean - bias, runs.deviations.mean(axis=0), noise, runs.share_of_seeds, runs.of_a_unit, COVERAGE
    )


def _interval(
    middle: float, deviations: NDArray[np.float64], noise: SeedNoise, share: float, of_a_unit: float, coverage: float
) -> Interval:
    """Return a t interval, with degrees of freedom by Welch (1947) and Satterthwaite (1946)."""
    examples = float((deviations**2).sum())
    variance = examples + share * noise.lasting
    uncertain = examples**2 / max(1, len(deviations) - 1)
    if noise.degrees:
        uncertain += (share * noise.variance) ** 2 / noise.degrees
    degrees = max(1.0, variance**2 / uncertain) if uncertain else np.inf
    half = float(stdtrit(degrees, (1 + coverage) / 2)) * variance**0.5
    if np.allclose(deviations, 0.0, atol=ROUNDING):
        half = max(half, math.log(2 / (1 - coverage)) * of_a_unit)
    return Interval(low=middle - half, high=middle + half)


def interval_of_test(test: TestEvaluation) -> Interval | None:
    """Return the 95% interval, over rows, of a score on the test split; None without a jackknife."""
    held_out = test.held_out
    if not held_out.deviations:
        return None
    scores, deviations = np.array([held_out.scores.objective]), np.array([held_out.deviations])
    run = Runs(scores, deviations, seeded=False, of_a_unit=held_out.of_a_unit)
    return interval_of(run, SeedNoise(0.0, 0.0, 0)).within(*limits_of(held_out.scores.metric))


def under_another_seed(results: StudyResults, trial: TrialResult) -> Interval | None:
    """Return the 95% prediction interval of a trial's score under another seed, on the rows that the search chose by.

    The interval of one more normal observation (Hahn and Meeker 1991). Its centre is the mean of the trial's runs on
    fresh seeds, or its search score without any. Its variance over seeds is pooled over all confirmed configurations;
    if none has two seeds, it is that of the default's two seeds in the search. None if there are no two seeds.
    """
    scores: dict[int, list[float]] = {}
    for run in results.confirmation:
        scores.setdefault(run.confirms, []).append(run.validation.objective)
    of_default = [trial.score or 0.0 for trial in results.leaderboard if trial.proposed_by == "default"]
    noise = seed_noise([_without_rows(of_trial) for of_trial in scores.values()])
    if not noise.degrees:
        noise = seed_noise([_without_rows(of_default)])
    if not noise.degrees or trial.score is None:
        return None
    own = scores.get(trial.number, [trial.score])
    half = float(stdtrit(noise.degrees, (1 + COVERAGE) / 2)) * (noise.variance * (1 + 1 / len(own))) ** 0.5
    middle = float(np.mean(own))
    return Interval(low=middle - half, high=middle + half).within(*limits_of(results.metric))


def _without_rows(scores: list[float]) -> Runs:
    """Return scores as runs with unknown deviations over rows."""
    return Runs(np.array(scores), np.zeros((len(scores), 1)))
