"""Regression metrics: correlations, explained variance and errors in the unit of the labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.messages import Scores
from hpo.metrics.confusion import Floats
from hpo.metrics.metric import Metric, SelectionMetric, refuse_unknown
from hpo.metrics.own_metric import load_own_metric


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NumberPredictions:
    """True and predicted numbers side by side, in the unit of the label column; shape (rows,) each."""

    true: Floats
    predicted: Floats
    sd: float
    """Standard deviation of the training rows, above 0."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.true)

    @property
    def squares(self) -> Floats:
        """Squared errors, shape (rows,)."""
        squares: Floats = (self.predicted - self.true) ** 2
        return squares

    @property
    def loss(self) -> float:
        """Mean squared error of the scaled targets; NaN if predictions are NaN."""
        with np.errstate(all="ignore"):
            return float(self.squares.mean() / self.sd**2)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """No row, because a number is not simply correct or wrong."""
        return np.zeros(self.rows, dtype=bool)

    def flipped(self, rows: NDArray[np.bool_]) -> "NumberPredictions":
        """Return the same predictions: none is correct."""
        assert not rows.any(), "no prediction is correct"
        return self

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "NumberPredictions":
        """Return the predictions of some rows."""
        return replace(self, true=self.true[rows], predicted=self.predicted[rows])


def correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's correlation, in -1..1; 0 if either is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    # Divide each by its largest deviation first, so that no square overflows.
    one, other = (deviation / np.abs(deviation).max() for deviation in (one - one.mean(), other - other.mean()))
    return float(np.clip(one @ other / math.sqrt((one @ one) * (other @ other)), -1, 1))


def ranks(values: Floats) -> Floats:
    """Return the rank of each value, from 1; equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    places: Floats = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return places


def determination(numbers: NumberPredictions) -> float:
    """Return the share of variance that is explained; for constant true values 0, or 1 without an error."""
    left, all_of_it = float(numbers.squares.sum()), float(((numbers.true - numbers.true.mean()) ** 2).sum())
    # For equal numbers, rounding may leave the sum above 0; for almost equal ones it may underflow.
    if np.ptp(numbers.true) ** 2 == 0:
        return float(left == 0)
    return 1 - left / all_of_it


METRICS: Mapping[str, Metric] = {
    "pearson": Metric(
        description="linear correlation of true and predicted numbers, from -1 to 1",
        source="scipy.stats.pearsonr",
        compute=lambda n: correlation(n.true, n.predicted),
        limits=(-1.0, 1.0),
    ),
    "spearman": Metric(
        description="correlation of the ranks of true and predicted numbers, from -1 to 1",
        source="scipy.stats.spearmanr",
        compute=lambda n: correlation(ranks(n.true), ranks(n.predicted)),
        limits=(-1.0, 1.0),
    ),
    "r2": Metric(
        description="share of the variance that is explained, at most 1 (coefficient of determination)",
        source="sklearn.metrics.r2_score",
        compute=determination,
        limits=(-math.inf, 1.0),
    ),
    "neg_rmse": Metric(
        description="minus the root of the mean squared error, in the unit of the labels",
        source="sklearn.metrics.root_mean_squared_error",
        compute=lambda n: -math.sqrt(n.squares.mean()),
        limits=(-math.inf, 0.0),
    ),
    "neg_mae": Metric(
        description="minus the mean absolute error, in the unit of the labels",
        source="sklearn.metrics.mean_absolute_error",
        compute=lambda n: -float(np.abs(n.predicted - n.true).mean()),
        limits=(-math.inf, 0.0),
    ),
}
NEGATED = {
    **dict.fromkeys(("loss", "mse", "rmse", "neg_mse", "mean_squared_error"), "neg_rmse"),
    **dict.fromkeys(("mae", "mean_absolute_error"), "neg_mae"),
}
"""Metrics that would be minimised, or rank alike -> the metric that is maximised instead."""


def resolve_regression_metric(name: str) -> SelectionMetric:
    """Choose the metric that trials are compared by: one of `METRICS`, `module:function`, or `auto`: `pearson`.

    Raises:
        ConfigurationError: an unknown metric; a function that cannot be found or fails on a test call.
    """
    name = "pearson" if name == "auto" else name
    if ":" in name:
        own = load_own_metric(name, *_tries())
        return SelectionMetric(name=name, note=f"The metric is {name}: a function of your own, maximised.", own=own)
    refuse_unknown(name, METRICS, "Regression", NEGATED)
    return SelectionMetric(name=name, note=f"The metric is {name}: {METRICS[name].description}.")


def _tries() -> tuple[dict[str, Any], dict[str, Any], str]:
    true = np.arange(1.0, 5.0)
    right, wrong = ({"true": true, "predicted": predicted} for predicted in (true, true[::-1]))
    called = "it is called as function(true, predicted), with arrays of numbers"
    return right, wrong, f"{len(true)} rows, all predicted right, then in reverse; {called}"


def regression_scores(predictions: NumberPredictions, metric: SelectionMetric) -> Scores:
    """Score numbers by every metric, and by the user's own; `docs/metrics.md` has the formulas.

    Raises:
        TrainingError: the user's own metric fails on these rows.
    """
    # A model that diverged cannot be scored.
    finite = math.isfinite(predictions.loss)
    values = {name: float(one.compute(predictions)) if finite else math.nan for name, one in METRICS.items()}
    values |= {"loss": predictions.loss, metric.name: regression_score(predictions, metric)}
    return Scores(metric=metric.name, values=values, rows=predictions.rows)


def regression_score(predictions: NumberPredictions, metric: SelectionMetric) -> float:
    """Score numbers by `metric` alone; raises what `regression_scores` does."""
    if not math.isfinite(predictions.loss):
        return math.nan
    if metric.own is not None:
        return metric.own(predictions.true, predictions.predicted)
    return float(METRICS[metric.name].compute(predictions))
