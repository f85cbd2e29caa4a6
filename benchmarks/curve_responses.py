"""Response surfaces from a table of real learning curves: a smooth mean plus the residual curve of a neighbour.

A configuration is answered by the mean of a Gaussian process over the table's own axes, at each share of a trial,
and by the residual curve of one of the five rows that are nearest; the trial's seed chooses which. So a search can find
what no row is, and finds noise as it was: along a whole curve, and a divergence where a neighbour diverged. What a
configuration is worth is the mean alone. (Looked up by its nearest row, an answer would be that of a learning rate that
differs by a third, and the best answer a lucky row.)

Scores are fitted as -log(top - score), `top` a little above the best: as far apart as what is left to gain.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from curve_tables import Table, Values, read_table
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from hpo.messages import Assignment, Ending
from hpo.runners.replay.curves import Curve, Point

Floats = NDArray[np.float64]
SHARES = np.linspace(0.0, 1.0, 65)
"""Of a trial, at which curves are fitted; between them they are straight."""
NEIGHBOURS = 5
FITTED_ROWS = 300
"""Rows from which the kernel is found; the mean is that of all rows."""
NEARLY = 1 - 1e-6
"""Of a share: what diverges in its last epoch has no last evaluation."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a trial shows."""

    scores: Floats
    """At each of `SHARES`, as far as it comes."""
    seconds: float
    """Of the whole trial, had it not diverged."""
    ends: float = 1.0
    """Share at which it diverges; 1 where it does not."""

    def score(self, share: float) -> float:
        """Return the score that a search sees at a share of the trial."""
        return float(np.interp(share, SHARES, self.scores))

    def reaches(self, share: float) -> bool:
        """Return whether it has not diverged by then."""
        return self.ends == 1 or share < self.ends


@dataclass(slots=True)
class Responses:
    """A table, what was fitted to it, and which of its two scores is searched."""

    table: Table
    fit: Mapping[str, Floats]
    turned_round: bool = False
    _known: dict[tuple[Any, ...], tuple[Floats, NDArray[np.int64]]] = field(default_factory=dict)
    """Place -> mean curves of both scores, and the nearest rows."""

    def trained(self, values: Values, seed: int) -> Trained:
        """Return what a configuration shows on a seed."""
        means, near = self._at(values)
        row, searched = near[seed % NEIGHBOURS], int(self.turned_round)
        scores = self._scored(means[searched] + self.fit["residuals"][row, searched])
        seconds = self.fit["pass_seconds"][row] * values["epochs"]
        return Trained(scores, float(seconds), float(self.fit["ends"][row]))

    def worth(self, values: Values) -> float:
        """Return the score that was not searched at the end of a trial, free of noise; of one score, that one."""
        return float(self._scored(self._at(values)[0][self._judged, -1]))

    @property
    def best(self) -> float:
        """The most that any row's configuration is worth."""
        return float(self._worths.max())

    @property
    def noise(self) -> float:
        """Standard deviation of what a trial shows at its end, among the best fifth of the rows."""
        scores = np.array([row.judged[-1] if self._judged else row.searched[-1] for row in self.table.rows])
        able = (self._worths >= np.quantile(self._worths, 0.8)) & (self.fit["ends"] == 1)
        return float((scores - self._worths)[able].std())

    @property
    def _judged(self) -> int:
        return int(self.table.two_scores and not self.turned_round)

    @property
    def _worths(self) -> Floats:
        return self._scored(self.fit["row_means"][:, self._judged])

    def _at(self, values: Values) -> tuple[Floats, NDArray[np.int64]]:
        place = self.table.places([values])[0]
        key = tuple(place)
        if key not in self._known:
            apart = self.fit["places"] - place
            means = self.fit["mean"] + np.tensordot(_covariance(apart, self.fit), self.fit["weights"], 1)
            near = np.abs(apart).sum(axis=1).argsort(kind="stable")[:NEIGHBOURS]
            self._known[key] = means, near
        return self._known[key]

    def _scored(self, warped: Floats) -> Floats:
        return np.maximum(0.0, self.fit["top"] - np.exp(-warped))


@dataclass(frozen=True, slots=True)
class ResponseSource:
    """The curves of a table, as `hpo simulate` replays them."""

    responses: Responses

    def curve(self, assignment: Assignment) -> Curve:
        """Return the curve of a trial with a point at each of its milestones, until it diverges."""
        values, end = dict(assignment.hyperparameters), assignment.milestones[-1].rung
        trained = self.responses.trained(values, assignment.seed)
        points = tuple(
            Point(rung=one.rung, score=trained.score(share), seconds=share * trained.seconds)
            for one in assignment.milestones
            if trained.reaches(share := one.rung / end)
        )
        table, warmup = self.responses.table, values["warmup_ratio"]
        return Curve(
            hyperparameters=assignment.hyperparameters.model_copy(
                update={"warmup_ratio": warmup / values["epochs"] if table.warmup_of_first_epoch else warmup}
            ),
            length=end,
            points=points,
            ending=Ending.DIVERGED if trained.ends < 1 else Ending.COMPLETED,
            seconds=trained.ends * trained.seconds,
            train_rows=table.train_rows,
        )

    def true_score(self, assignment: Assignment) -> float:
        """Return what a configuration is worth."""
        return self.responses.worth(dict(assignment.hyperparameters))


def read_responses(path: Path) -> Responses:
    """Read a table and what was fitted to it, which is fitted once and kept in the folder for temporary files."""
    table = read_table(path)
    digest = hashlib.sha256(path.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir(), f"hpo-curves-{digest}.npz")
    if not kept.exists():
        np.savez(kept, allow_pickle=False, **fit_table(table))
    with np.load(kept) as fit:
        return Responses(table, dict(fit))


def fit_table(table: Table, least_deviation: float = 0.0) -> dict[str, Floats]:
    """Return the weights of the rows in the mean, their residual curves, and what the mean is made with.

    Both scores of all shares have one kernel, a Matern one with a length for each axis and noise (Rasmussen and
    Williams 2006, chapters 2 and 4), found by the likelihood of the final scores. A row's residual is what it lies from
    the mean, widened by as much as it has drawn the mean to itself.

    Args:
        table: the table.
        least_deviation: lower bound of the standard deviation of a score between seeds and rows; a few rows alone may
            seem free of it.
    """
    scores = np.array([[_on_shares(row.shares, one) for one in (row.searched, row.judged)] for row in table.rows])
    top = scores.max() + (scores.max() - np.median(scores[..., -1]))
    warped = -np.log(top - scores)
    places = table.places([row.values for row in table.rows])
    final = warped[:, 0, -1]
    # Relative, because the kernel is fitted to standardized scores.
    least_noise = (least_deviation / scores[:, 0, -1].std()) ** 2
    kernel = _fitted_kernel(places, (final - final.mean()) / final.std(), least_noise)
    covariance = np.array([_covariance(places - place, kernel) for place in places])
    factor = cho_factor(covariance + kernel["noise"] * np.eye(len(places)))
    mean = warped.mean(axis=0)
    weights = cho_solve(factor, (warped - mean).reshape(len(places), -1))
    precision = np.diag(cho_solve(factor, np.eye(len(places))))
    residuals = np.sqrt(kernel["noise"] / precision)[:, None] * weights
    weights = weights.reshape(warped.shape)
    return kernel | {
        "top": np.array(top),
        "places": places,
        "mean": mean,
        "weights": weights,
        "residuals": residuals.reshape(warped.shape),
        "row_means": (mean + np.tensordot(covariance, weights, 1))[..., -1],
        "ends": np.array([NEARLY * row.shares[-1] if row.diverged else 1.0 for row in table.rows]),
        "pass_seconds": np.array([row.seconds / row.shares[-1] / row.values["epochs"] for row in table.rows]),
    }


def _fitted_kernel(places: Floats, final: Floats, least_noise: float) -> dict[str, Floats]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    drawn = np.random.default_rng(0).permutation(len(places))[:FITTED_ROWS]
    noise = WhiteKernel(max(0.1, least_noise), (max(1e-5, least_noise), 1e5))
    kernel = ConstantKernel() * Matern(np.full(places.shape[1], 0.5), (0.05, 20.0), nu=2.5) + noise
    # An axis that does not matter has a length at the end of its range, of which it warns.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fitted = GaussianProcessRegressor(kernel, random_state=0).fit(places[drawn], final[drawn]).kernel_
    return {
        "scale": np.array(fitted.k1.k1.constant_value),
        "lengths": np.array(fitted.k1.k2.length_scale),
        "noise": np.array(fitted.k2.noise_level),
    }


def _covariance(apart: Floats, kernel: Mapping[str, Floats]) -> Floats:
    """Return the covariance of places that lie `apart`, shape (places, axes): Matern's of 5/2."""
    far = np.sqrt(5) * np.sqrt(((apart / kernel["lengths"]) ** 2).sum(axis=-1))
    return np.asarray(kernel["scale"] * (1 + far + far**2 / 3) * np.exp(-far))


def _on_shares(shares: Any, scores: Any) -> Floats:
    """Return a curve at each of `SHARES`; after it diverged it is by chance again."""
    return np.asarray(np.interp(SHARES, shares, scores, right=None if shares[-1] >= 1 - 1e-9 else scores[0]))
