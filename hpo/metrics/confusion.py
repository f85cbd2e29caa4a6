"""Confusion matrix: predictions of a classification, counted once for all metrics."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15
"""Number of bins of the calibration error, as in Guo et al. 2017."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SMALLEST = float(np.finfo(np.float64).eps)
"""Probability below which the log loss is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassPredictions:
    """True classes and predicted probabilities."""

    true: Integers
    """Class numbers, shape (rows,)."""
    probabilities: Floats
    """Shape (rows, classes), each row summing to 1."""
    loss: float
    """Mean cross-entropy in nats."""

    @classmethod
    def of(cls, true: Integers, probabilities: Floats, loss: float | None = None) -> "ClassPredictions":
        """Return the object; a loss of None is computed from the probabilities (36 nats for an impossible class)."""
        if loss is None:
            loss = -float(np.log(np.maximum(probabilities[np.arange(len(true)), true], SMALLEST)).mean())
        return cls(true=true, probabilities=probabilities, loss=loss)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.true)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """True where the most probable class (of equal ones the first) is the true one; shape (rows,)."""
        correct: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.true
        return correct

    def flipped(self, rows: NDArray[np.bool_]) -> "ClassPredictions":
        """Return the predictions with the two most probable classes exchanged in some rows, of shape (rows,)."""
        probabilities, which = self.probabilities.copy(), np.flatnonzero(rows)
        order = np.argsort(-probabilities[which], axis=1, kind="stable")[:, :2]
        probabilities[which[:, None], order] = probabilities[which[:, None], order[:, ::-1]]
        return ClassPredictions.of(self.true, probabilities)

    def take(self, rows: Integers | NDArray[np.bool_]) -> "ClassPredictions":
        """Return the predictions of some rows."""
        return ClassPredictions.of(self.true[rows], self.probabilities[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConfusionCounts:
    """Confusion matrix of some rows, and the scores derived from it.

    Arrays have shape (classes,), in the order of the labels; a ratio 0/0 is 0.
    """

    confusion: Integers
    """Shape (classes, classes): rows of true class i that were predicted as class j."""
    predicted: Integers
    """Rows predicted as each class: the sums over columns."""
    support: Integers
    """Rows of each class: the sums over rows."""
    positive: int | None
    """The positive class of two; None if there are more."""
    beta: float
    """Weight of recall relative to precision in `fbeta`."""
    roc_auc: Floats = field(default_factory=lambda: np.empty(0))
    """Area under the ROC curve of each class against the rest; 1/2 if one of the two has no row. Empty if not computed.
    """
    average_precision: Floats = field(default_factory=lambda: np.empty(0))
    """Average precision of each class against the rest; empty if not computed."""
    calibration_error: float = math.nan
    loss: float = math.nan
    """Mean cross-entropy, nats per row."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.support.sum())

    @property
    def precision(self) -> Floats:
        """Share of the rows predicted as a class that are of it."""
        return ratio(np.diagonal(self.confusion), self.predicted)

    @property
    def recall(self) -> Floats:
        """Share of the rows of a class that are predicted as it."""
        return ratio(np.diagonal(self.confusion), self.support)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall."""
        return self._f_score(1.0)

    @property
    def fbeta(self) -> Floats:
        """F score in which recall counts `beta` times as much as precision."""
        return self._f_score(self.beta)

    @property
    def accuracy(self) -> float:
        """Share of the rows that are predicted correctly."""
        return float(np.trace(self.confusion) / self.rows)

    @property
    def matthews(self) -> float:
        """Correlation of true and predicted classes, in -1..1 (Gorodkin 2004); 0 if either is constant."""
        # Floats, because a product of four counts does not fit into an integer.
        true, predicted = self.support.astype(np.float64), self.predicted.astype(np.float64)
        spread = (self.rows**2 - true @ true) * (self.rows**2 - predicted @ predicted)
        return float((np.trace(self.confusion) * self.rows - true @ predicted) / np.sqrt(spread)) if spread else 0.0

    def of_positive(self, of_class: Floats) -> float:
        """Return the score of the positive class."""
        assert self.positive is not None, "a positive class needs two classes"
        return float(of_class[self.positive])

    def weighted(self, of_class: Floats) -> float:
        """Return the mean over classes, weighted by their rows."""
        return float(of_class @ self.support / self.rows)

    def of_present(self, of_class: Floats) -> float:
        """Return the mean over the classes that have a row."""
        return float(of_class[self.support > 0].mean())

    def one_against_rest(self, of_class: Floats) -> float:
        """Return the score of the positive class of two; for more, the mean over classes with rows."""
        return self.of_present(of_class) if self.positive is None else self.of_positive(of_class)

    def _f_score(self, beta: float) -> Floats:
        """Return the weighted harmonic mean of precision and recall (van Rijsbergen 1979) of each class."""
        return ratio((1 + beta**2) * np.diagonal(self.confusion), self.predicted + beta**2 * self.support)


def count_confusion(
    predictions: ClassPredictions, *, positive: int | None, beta: float, ranks: bool = True
) -> ConfusionCounts:
    """Count predictions; the predicted class is the most probable, of equal ones the first.

    Works also for a model that diverged, whose probabilities are NaN.

    Args:
        predictions: of at least one row.
        positive: the positive class of two; None if there are more.
        beta: weight of recall relative to precision in `fbeta`.
        ranks: True to compute `roc_auc` and `average_precision`, which take longer than all the rest.
    """
    true, probabilities = predictions.true, predictions.probabilities
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    confusion = np.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)
    ranked = [ranking_scores(true == number, column) for number, column in enumerate(probabilities.T)] if ranks else []
    return ConfusionCounts(
        confusion=confusion,
        predicted=confusion.sum(axis=0),
        support=confusion.sum(axis=1),
        positive=positive,
        beta=beta,
        roc_auc=np.array([area for area, _ in ranked]),
        average_precision=np.array([precision for _, precision in ranked]),
        calibration_error=_calibration_error(true == predicted, probabilities.max(axis=1)),
        loss=predictions.loss,
    )


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> Floats:
    """Return the ratios of counts, 0 where the denominator is 0."""
    divided: Floats = np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
    return divided


def ranking_scores(belongs: NDArray[np.bool_], probability: Floats) -> tuple[float, float]:
    """Return the area under the ROC curve and the average precision of one class against the rest.

    Equal to scikit-learn's `roc_auc_score` and `average_precision_score`, from a single sort: those take 2 ms per
    class, too long at a rung that scores a few hundred rows of many classes.

    Args:
        belongs: True for rows of the class, shape (rows,).
        probability: that of the class, shape (rows,).
    """
    order = np.argsort(probability)[::-1]
    ranked, found = probability[order], belongs[order]
    # Rows with equal probabilities are not ordered: all get the position of the last of them.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    places = np.repeat(ends, np.diff(ends, prepend=-1))
    hits = found.cumsum()[places]
    misses = places + 1 - hits
    of_class = int(found.sum())
    pairs = of_class * (len(found) - of_class)
    # Pairs in which the row of the class has at least the other's probability, minus pairs in which the other has more.
    lead = int(hits[~found].sum()) - int(misses[found].sum())
    area = (1 + lead / pairs) / 2 if pairs else 0.5
    return area, float((hits[found] / (places[found] + 1)).mean()) if of_class else 0.0


def _calibration_error(right: NDArray[np.bool_], confidence: Floats) -> float:
    """Return the mean distance between confidence and accuracy over bins of confidence, weighted by rows."""
    inner_edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.searchsorted(inner_edges, confidence, side="left")
    return float(np.abs(np.bincount(bins, weights=right - confidence)).sum() / len(right))
