"""Counts that scores follow from: predictions counted once, in one confusion matrix and one probability matrix."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpo.metrics.predictions import Predictions

CALIBRATION_BINS = 15
"""Guo et al. 2017."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConfusionCounts:
    """Some rows, counted. Arrays have shape (classes,), in the order of the labels; a ratio of nothing is 0."""

    confusion: Integers
    """Shape (classes, classes): rows of true class i that were predicted as class j."""
    support: Integers
    """Rows of each class."""
    precision: Floats
    recall: Floats
    f1: Floats
    fbeta: Floats
    roc_auc: Floats
    """Of each class against the rest; 1/2 where one of the two has no row."""
    average_precision: Floats
    """Of each class against the rest."""
    calibration_error: float
    loss: float
    """Mean cross-entropy, nats per row."""
    positive: int | None
    """The positive class of two; None where there are more."""

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self.support.sum())

    @property
    def accuracy(self) -> float:
        """Share of the rows that are predicted right."""
        return float(np.trace(self.confusion) / self.rows)

    @property
    def matthews(self) -> float:
        """Correlation of true and predicted classes, in -1..1 (Gorodkin 2004); 0 where either is always the same."""
        # Floats, because a product of four counts does not fit into an integer.
        true, predicted = self.support.astype(np.float64), self.confusion.sum(axis=0).astype(np.float64)
        spread = (self.rows**2 - true @ true) * (self.rows**2 - predicted @ predicted)
        return float((np.trace(self.confusion) * self.rows - true @ predicted) / np.sqrt(spread)) if spread else 0.0

    def of_positive(self, of_class: Floats) -> float:
        """Return the score of the positive class."""
        assert self.positive is not None, "a positive class needs two classes"
        return float(of_class[self.positive])

    def weighted(self, of_class: Floats) -> float:
        """Return the mean over classes, each counted by its rows."""
        return float(of_class @ self.support / self.rows)

    def of_present(self, of_class: Floats) -> float:
        """Return the mean over the classes that have a row."""
        return float(of_class[self.support > 0].mean())

    def one_against_rest(self, of_class: Floats) -> float:
        """Return the score of the positive class of two; of more, the mean over those that have a row."""
        return self.of_present(of_class) if self.positive is None else self.of_positive(of_class)


def tally(predictions: Predictions, *, positive: int | None, beta: float, ranks: bool = True) -> ConfusionCounts:
    """Count predictions; the class predicted is the likeliest, of equals the first.

    A model that diverged, whose probabilities are no numbers, is counted like any other.

    Args:
        predictions: of at least one row.
        positive: the positive class of two; None where there are more.
        beta: how many times as much as precision recall counts in `fbeta`.
        ranks: whether `roc_auc` and `average_precision` are computed; else they are empty.
    """
    true, probabilities = predictions.true, predictions.probabilities
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    confusion = np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
    ranked = [ranking_scores(true == number, column) for number, column in enumerate(probabilities.T)] if ranks else []
    return replace(
        counted(confusion, confusion.sum(axis=0), confusion.sum(axis=1), positive=positive, beta=beta),
        roc_auc=np.array([area for area, _ in ranked]),
        average_precision=np.array([precision for _, precision in ranked]),
        calibration_error=_calibration_error(true == predicted, probabilities.max(axis=1)),
        loss=predictions.loss,
    )


def counted(
    confusion: Integers, guesses: Integers, support: Integers, *, positive: int | None, beta: float
) -> ConfusionCounts:
    """Return what counts alone tell; what takes probabilities is empty or no number.

    Args:
        confusion: as `ConfusionCounts` has it.
        guesses: its sums over columns, shape (classes,).
        support: its sums over rows, shape (classes,).
        positive: as `tally` takes it.
        beta: as `tally` takes it.
    """
    hits = np.diagonal(confusion)
    return ConfusionCounts(
        confusion=confusion,
        support=support,
        precision=ratio(hits, guesses),
        recall=ratio(hits, support),
        f1=_f_score(hits, guesses, support, 1.0),
        fbeta=_f_score(hits, guesses, support, beta),
        roc_auc=np.empty(0),
        average_precision=np.empty(0),
        calibration_error=math.nan,
        loss=math.nan,
        positive=positive,
    )


def _f_score(hits: Integers, guesses: Integers, support: Integers, beta: float) -> Floats:
    """Return the weighted harmonic mean of precision and recall (van Rijsbergen 1979) of each class."""
    return ratio((1 + beta**2) * hits, guesses + beta**2 * support)


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> Floats:
    """Return the ratios of counts, 0 where the whole is nothing."""
    divided: Floats = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return divided


def ranking_scores(belongs: NDArray[np.bool_], probability: Floats) -> tuple[float, float]:
    """Return the area under the ROC curve and the average precision of one class against the rest.

    As scikit-learn's `roc_auc_score` and `average_precision_score`, from a single sort: those take 2 ms a class, too
    long at a rung that scores a few hundred rows of many classes.

    Args:
        belongs: whether each row is of the class, shape (rows,).
        probability: that of the class, shape (rows,).
    """
    order = np.argsort(probability)[::-1]
    ranked, found = probability[order], belongs[order]
    # Rows of equal probability have no order among them: all stand at the place of their last one.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    places = np.repeat(ends, np.diff(ends, prepend=-1))
    hits = found.cumsum()[places]
    misses = places + 1 - hits
    of_class = int(found.sum())
    pairs = of_class * (len(found) - of_class)
    # Pairs in which the row of the class is at least as probable, less those in which the other row is.
    lead = int(hits[~found].sum()) - int(misses[found].sum())
    area = (1 + lead / pairs) / 2 if pairs else 0.5
    return area, float((hits[found] / (places[found] + 1)).mean()) if of_class else 0.0


def _calibration_error(right: NDArray[np.bool_], confidence: Floats) -> float:
    """Return the mean distance of confidence from accuracy over bins of confidence, each counted by its rows."""
    inner_edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidence, side="left")
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(right))
