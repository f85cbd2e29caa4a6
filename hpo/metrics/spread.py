"""By how much the choice of rows moves a score that was stored with its confusion: a jackknife from counts alone."""

import math

import numpy as np

from hpo.messages import Scores
from hpo.metrics.classification import METRICS, OF_RANKS
from hpo.metrics.confusion import counted

OF_PROBABILITIES = (*OF_RANKS, "neg_log_loss", "neg_calibration_error")
"""Metrics of which counts do not tell."""


def spread_of_rows(scores: Scores, beta: float | None = None) -> float | None:
    """Return the standard deviation of the objective over as many other rows; None where counts do not tell it.

    The delete-one jackknife (Efron and Tibshirani 1993): all rows of one cell of the confusion give the same score when
    left out, so it takes as many scores as there are cells. Rows that belong together are taken for independent, and
    folds for one set of rows.

    Args:
        scores: with their confusion.
        beta: of `fbeta` and its kin.
    """
    metric = METRICS.get(scores.metric)
    confusion = np.array(scores.confusion, dtype=np.int64)
    unknown = metric is None or scores.metric in OF_PROBABILITIES or ("fbeta" in scores.metric and beta is None)
    if metric is None or unknown or confusion.sum() < 2:
        return None
    positive, rows = _positive(scores), int(confusion.sum())
    guesses, support = confusion.sum(axis=0), confusion.sum(axis=1)
    without, times = [], []
    for true, predicted in zip(*np.nonzero(confusion), strict=True):
        times.append(int(confusion[true, predicted]))
        # In place: a thousand classes have a million cells.
        for counts, place in ((confusion, (true, predicted)), (guesses, predicted), (support, true)):
            counts[place] -= 1
        without.append(float(metric.of(counted(confusion, guesses, support, positive=positive, beta=beta or 1.0))))
        for counts, place in ((confusion, (true, predicted)), (guesses, predicted), (support, true)):
            counts[place] += 1
    weights, departs = np.array(times), np.array(without) - np.average(without, weights=times)
    return float(((rows - 1) / rows * (weights * departs**2).sum()) ** 0.5)


def with_spread(score: float | None, scores: Scores | None, beta: float | None = None, seeds: float = 0.0) -> str:
    """Return a score with one standard deviation of it, as `0.9667 ±0.011`; a dash where there is none.

    Args:
        score: the objective.
        scores: what it is among; None where only the number is known.
        beta: as `spread_of_rows` takes it.
        seeds: standard deviation over seeds; 0 where that is not known.
    """
    if score is None:
        return "–"
    rows = None if scores is None else spread_of_rows(scores, beta)
    return f"{score:.4f}" + (f" ±{math.hypot(rows, seeds):.3f}" if rows else "")


def _positive(scores: Scores) -> int | None:
    """Return the positive class of two, which is the one whose F1 was stored as that."""
    classes = list(scores.per_class.values())
    if "f1" not in scores.values or len(classes) != 2:
        return None
    names = ("precision", "recall", "f1")
    return min(range(2), key=lambda one: sum(abs(classes[one][name] - scores.values[name]) for name in names))
