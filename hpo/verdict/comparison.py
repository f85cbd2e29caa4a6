"""How far two configurations are apart, with what is known of it: a 95% interval over examples and seeds.

A configuration is trained under several seeds, and each run scored on the same rows. Its mean score is uncertain for
two reasons: other rows, and other seeds. The first is told by a jackknife over rows, paired between configurations,
which is why the variance of a difference is that of the differences of their deviations. The second is told by how far
runs are apart that differ in their seed alone, pooled over all configurations, as each has few seeds. Runs differ
under other seeds partly because they err on other rows, which both of these would count: so it is taken off once.

Where no row tells two apart, or none is answered wrongly, the first variance is 0, which says nothing of the rows to
come: an event that n rows have not shown may be as frequent as ln(2 / (1 - coverage)) / n, 3.7 / n at 95% (the rule of
three, Hanley and Lippman-Hand 1983). There no interval is narrower than what so many rows, or groups of rows, would do
on average.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # What scipy.stats.t.ppf calls; scipy.stats takes half a second longer to import.

from hpo.verdict.findings import Interval

COVERAGE = 0.95
ROUNDING = 1e-12
"""Of sums of deviations that are 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """What one configuration scored on the same rows under several seeds."""

    scores: NDArray[np.float64]
    """The objective, shape (seeds,)."""
    deviations: NDArray[np.float64]
    """Those of `hpo.messages.HeldOutEvaluation`, shape (seeds, groups of rows)."""
    seeded: bool = True
    """Whether another seed would give another score; a baseline's is the same."""
    of_a_unit: float = 0.0
    """As `hpo.messages.HeldOutEvaluation` has it."""

    def after(self, count: int) -> "Runs":
        """Return all but the first so many."""
        return replace(self, scores=self.scores[count:], deviations=self.deviations[count:])

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(self.scores.mean())

    @property
    def share_of_seeds(self) -> float:
        """By what the variance over seeds is multiplied in that of the mean."""
        return 1 / len(self.scores) if self.seeded else 0.0


@dataclass(frozen=True, slots=True)
class SeedNoise:
    """How far runs of one configuration are apart for their seeds."""

    variance: float
    """Of the objective on these rows, pooled over the configurations."""
    of_rows: float
    """How much of that is runs erring on other rows, which would even out over more rows."""
    degrees: int
    """Of freedom; 0 where no configuration has two seeds, and nothing is known."""

    @property
    def lasting(self) -> float:
        """Variance over seeds that more rows would not even out."""
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
    of: Runs, than: Runs, noise: SeedNoise, bias: float = 0.0, coverage: float = COVERAGE
) -> tuple[float, Interval]:
    """Return by how much one configuration scores higher than another, and the interval of it.

    Args:
        of: runs on some rows.
        than: runs on the same rows.
        noise: of these and others.
        bias: what is taken off, in the objective's unit.
        coverage: of the interval, 0 to 1.
    """
    points = of.mean - than.mean - bias
    deviations = of.deviations.mean(axis=0) - than.deviations.mean(axis=0)
    share, of_a_unit = of.share_of_seeds + than.share_of_seeds, max(of.of_a_unit, than.of_a_unit)
    return points, _interval(points, deviations, noise, share, of_a_unit, coverage)


def interval_of(runs: Runs, noise: SeedNoise, bias: float = 0.0) -> Interval:
    """Return the interval of a configuration's mean score less `bias`, in the objective's unit."""
    return _interval(
        runs.mean - bias, runs.deviations.mean(axis=0), noise, runs.share_of_seeds, runs.of_a_unit, COVERAGE
    )


def _interval(
    middle: float, deviations: NDArray[np.float64], noise: SeedNoise, share: float, of_a_unit: float, coverage: float
) -> Interval:
    """Return a t interval; its degrees of freedom by Welch (1947) and Satterthwaite (1946)."""
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
