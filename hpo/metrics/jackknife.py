"""Jackknife: the standard error of a score over the choice of rows, and its deviations with each group left out.

It works for any metric that can be computed on other rows, and is the same on every machine. For two models on the same
rows it gives the noise of their difference, because both leave out the same groups.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hpo.messages import Scores
from hpo.metrics.classification import METRICS, OF_RANKS
from hpo.metrics.confusion import ConfusionCounts

MOST_GROUPS = 200
OF_PROBABILITIES = (*OF_RANKS, "neg_log_loss", "neg_calibration_error")
"""Metrics that cannot be computed from a confusion matrix."""


def leave_out_groups(units: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the jackknife group of each row, from 0: at most `MOST_GROUPS`, of similar size.

    Args:
        units: unit in which each row is left out, such as its document, from 0 without gaps; shape (rows,).
        seed: decides which units are together.
    """
    count = int(units.max()) + 1
    order = np.random.default_rng(seed).permutation(count)
    group: NDArray[np.int64] = (order % min(count, MOST_GROUPS))[units]
    return group


def deviations(score: Callable[[NDArray[np.bool_]], float], groups: NDArray[np.int64]) -> tuple[float, ...]:
    """Return a score's deviations with each group left out, scaled so that their squares add up to its variance.

    Delete-a-group jackknife (Kott 2001): the variance is (G - 1) / G times the sum of squares over G groups.

    Args:
        score: function from a mask of rows, shape (rows,), to their score.
        groups: of each row, from `leave_out_groups`.
    """
    without = np.array([score(groups != group) for group in range(int(groups.max()) + 1)])
    return tuple(scale(without).tolist())


def scale(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return deviations from the scores without each group, shape (..., groups)."""
    count = without.shape[-1]
    centred: NDArray[np.float64] = (without - without.mean(axis=-1, keepdims=True)) * ((count - 1) / count) ** 0.5
    return centred


def has_standard_error(metric: str) -> bool:
    """Return true if a metric can be computed from a confusion matrix alone, so that its standard error is known."""
    return metric in METRICS and metric not in OF_PROBABILITIES and "fbeta" not in metric


def standard_error(scores: Scores, beta: float | None = None) -> float | None:
    """Return the standard error of the score over the choice of rows; None without a confusion matrix.

    The delete-one jackknife (Efron and Tibshirani 1993): all rows in one cell of the confusion matrix give the same
    score when left out, so it takes as many scores as there are cells. Rows that belong together are treated as
    independent, and folds as one set of rows.

    Args:
        scores: with their confusion matrix.
        beta: of `fbeta` and its averages.
    """
    metric = METRICS.get(scores.metric)
    confusion = np.array(scores.confusion, dtype=np.int64)
    unknown = scores.metric in OF_PROBABILITIES or ("fbeta" in scores.metric and beta is None)
    if metric is None or unknown or confusion.sum() < 2:
        return None
    rows, predicted, support = int(confusion.sum()), confusion.sum(axis=0), confusion.sum(axis=1)
    # Changed in place: a thousand classes have a million cells.
    counts = ConfusionCounts(
        confusion=confusion, predicted=predicted, support=support, positive=_stored_positive(scores), beta=beta or 1.0
    )
    cells = np.argwhere(confusion)
    times, without = confusion[tuple(cells.T)], []
    for row, column in cells:
        for sign in (-1, 1):
            confusion[row, column] += sign
            support[row] += sign
            predicted[column] += sign
            if sign < 0:
                without.append(float(metric.compute(counts)))
    centred = np.array(without) - np.average(without, weights=times)
    return float(((rows - 1) / rows * (times * centred**2).sum()) ** 0.5)


def with_standard_error(
    score: float | None, scores: Scores | None, beta: float | None = None, seeds: float = 0.0
) -> str:
    """Return a score with its standard error, as `0.9667 ±0.011`; a dash if there is none.

    Args:
        score: by the metric that trials are compared by.
        scores: all scores of the same evaluation; None if only the number is known.
        beta: as for `standard_error`.
        seeds: standard deviation over seeds; 0 if unknown.
    """
    if score is None:
        return "–"
    rows = None if scores is None else standard_error(scores, beta)
    return f"{score:.4f}" + (f" ±{math.hypot(rows, seeds):.3f}" if rows else "")


def _stored_positive(scores: Scores) -> int | None:
    """Return the positive class of two: the class whose F1 was stored as `f1`."""
    classes = list(scores.per_class.values())
    if "f1" not in scores.values or len(classes) != 2:
        return None
    names = ("precision", "recall", "f1")
    return min(range(2), key=lambda one: sum(abs(classes[one][name] - scores.values[name]) for name in names))
