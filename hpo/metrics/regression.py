"""Scores of a regression."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ConfigurationError, nearest
from hpo.messages import Scores
from hpo.metrics.confusion import Floats
from hpo.metrics.metric import Metric, Objective
from hpo.metrics.own_metric import Arguments, load_own_metric


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Numbers:
    """True and predicted numbers side by side, in the unit of the label column; shape (rows,) each."""

    true: Floats
    predicted: Floats
    sd: float
    """Standard deviation of the training rows, above 0."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.true)

    @property
    def squares(self) -> Floats:
        """Squared errors, shape (rows,)."""
        squares: Floats = (self.predicted - self.true) ** 2
        return squares

    @property
    def loss(self) -> float:
        """Mean squared error of the scaled targets; no number where predictions are none."""
        with np.errstate(all="ignore"):
            return float(self.squares.mean() / self.sd**2)

    @property
    def right(self) -> NDArray[np.bool_]:
        """No row: a number is nearer or farther."""
        return np.zeros(self.rows, dtype=bool)

    def turned(self, rows: NDArray[np.bool_]) -> "Numbers":
        """Return these: none is right."""
        assert not rows.any(), "there is no right answer to turn"
        return self

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Numbers":
        """Return those of some rows."""
        return replace(self, true=self.true[rows], predicted=self.predicted[rows])


def correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's correlation, in -1..1; 0 where either is always the same."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    # Each over its largest deviation first, so that no square is beyond what a float holds.
    one, other = (deviation / np.abs(deviation).max() for deviation in (one - one.mean(), other - other.mean()))
    return float(np.clip(one @ other / math.sqrt((one @ one) * (other @ other)), -1, 1))


def ranks(values: Floats) -> Floats:
    """Return the place of each value among all, from 1; equals share the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    places: Floats = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return places


def determination(numbers: Numbers) -> float:
    """Return the share of variance that is explained; of true values that are all the same 0, or 1 without an error."""
    left, all_of_it = float(numbers.squares.sum()), float(((numbers.true - numbers.true.mean()) ** 2).sum())
    if np.ptp(numbers.true) == 0:
        return float(left == 0)
    return 1 - left / all_of_it


METRICS: Mapping[str, Metric] = {
    "pearson": Metric(
        description="linear correlation of true and predicted numbers, from -1 to 1",
        source="scipy.stats.pearsonr",
        of=lambda n: correlation(n.true, n.predicted),
        limits=(-1.0, 1.0),
    ),
    "spearman": Metric(
        description="correlation of the ranks of true and predicted numbers, from -1 to 1",
        source="scipy.stats.spearmanr",
        of=lambda n: correlation(ranks(n.true), ranks(n.predicted)),
        limits=(-1.0, 1.0),
    ),
    "r2": Metric(
        description="share of the variance that is explained, at most 1 (coefficient of determination)",
        source="sklearn.metrics.r2_score",
        of=determination,
        limits=(-math.inf, 1.0),
    ),
    "neg_rmse": Metric(
        description="minus the root of the mean squared error, in the unit of the labels",
        source="sklearn.metrics.root_mean_squared_error",
        of=lambda n: -math.sqrt(n.squares.mean()),
        limits=(-math.inf, 0.0),
    ),
    "neg_mae": Metric(
        description="minus the mean absolute error, in the unit of the labels",
        source="sklearn.metrics.mean_absolute_error",
        of=lambda n: -float(np.abs(n.predicted - n.true).mean()),
        limits=(-math.inf, 0.0),
    ),
}
NEGATED = {
    **dict.fromkeys(("loss", "mse", "rmse", "neg_mse", "mean_squared_error"), "neg_rmse"),
    **dict.fromkeys(("mae", "mean_absolute_error"), "neg_mae"),
}
"""What one would minimise, or is ordered alike -> the metric that is maximised instead."""


def resolve_regression_metric(metric: str) -> Objective:
    """Decide which score counts: one of `METRICS`; or `module:function`; or `auto`, which is `pearson`.

    Raises:
        ConfigurationError: no such metric; a function that cannot be found or fails on a try.
    """
    metric = "pearson" if metric == "auto" else metric
    if ":" in metric:
        own = load_own_metric(metric, *_tries())
        return Objective(metric=metric, note=f"The objective is {metric}: a function of your own, maximised.", own=own)
    if metric in NEGATED:
        raise ConfigurationError(
            f"task.metric is {metric!r}, but the objective is maximised; choose {NEGATED[metric]}."
        )
    if metric not in METRICS:
        raise ConfigurationError(f"Regression has no metric {metric!r}. {nearest(metric, ['auto', *METRICS])}")
    return Objective(metric=metric, note=f"The objective is {metric}: {METRICS[metric].description}.")


def _tries() -> tuple[Arguments, Arguments, str]:
    true = np.arange(1.0, 5.0)
    right, wrong = (Arguments(true=true, predicted=predicted) for predicted in (true, true[::-1]))
    called = "it is called as function(true, predicted), with arrays of numbers"
    return right, wrong, f"{len(true)} rows, all predicted right, then in reverse; {called}"


def regression_scores(numbers: Numbers, objective: Objective) -> Scores:
    """Score numbers by every metric, and by the user's own; the formulas are in `docs/metrics.md`.

    Raises:
        TrainingError: the user's own metric fails on these rows.
    """
    # Of a model that diverged there is nothing to score.
    finite = math.isfinite(numbers.loss)
    values = {name: float(metric.of(numbers)) if finite else math.nan for name, metric in METRICS.items()}
    values |= {"loss": numbers.loss, objective.metric: regression_score(numbers, objective)}
    return Scores(metric=objective.metric, values=values, rows=numbers.rows)


def regression_score(numbers: Numbers, objective: Objective) -> float:
    """Score numbers by the objective alone; raises what `regression_scores` does."""
    if not math.isfinite(numbers.loss):
        return math.nan
    if objective.own is not None:
        return objective.own(Arguments(true=numbers.true, predicted=numbers.predicted))
    return float(METRICS[objective.metric].of(numbers))
