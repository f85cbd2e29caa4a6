"""Confusion matrix: predictions of a classification, counted once for all metrics."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15
"""Guo et al. 2017."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SMALLEST = float(np.finfo(np.float64).eps)
"""A probability below which a log says nothing more."""


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
        """Return these; a loss of None follows from the probabilities, where an impossible class costs 36 nats."""
        if loss is None:
            loss = -float(np.log(np.maximum(probabilities[np.arange(len(true)), true], SMALLEST)).mean())
        return cls(true=true, probabilities=probabilities, loss=loss)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.true)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the likeliest class, of equals the first, is the true one; shape (rows,)."""
        correct: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.true
        return correct

    def flipped(self, rows: NDArray[np.bool_]) -> "ClassPredictions":
        """Return these with the two likeliest classes of some rows exchanged; `rows` has shape (rows,)."""
        probabilities, which = self.probabilities.copy(), np.flatnonzero(rows)
        order = np.argsort(-probabilities[which], axis=1, kind="stable")[:, :2]
        probabilities[which[:, None], order] = probabilities[which[:, None], order[:, ::-1]]
        return ClassPredictions.of(self.true, probabilities)

    def take(self, rows: Integers | NDArray[np.bool_]) -> "ClassPredictions":
        """Return those of some rows."""
        return ClassPredictions.of(self.true[rows], self.probabilities[rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConfusionCounts:
    """The confusion matrix of some rows, and what follows from it.

    Arrays have shape (classes,), in the order of the labels; a ratio of nothing is 0.
    """

    confusion: Integers
    """Shape (classes, classes): rows of true class i that were predicted as class j."""
    predicted: Integers
    """Rows predicted as each class: the sums over columns."""
    support: Integers
    """Rows of each class: the sums over rows."""
    positive: int | None
    """The positive class of two; None where there are more."""
    beta: float
    """How many times as much as precision recall counts in `fbeta`."""
    roc_auc: Floats = field(default_factory=lambda: np.empty(0))
    """Of each class against the rest; 1/2 where one of the two has no row. Empty where ranks were not counted."""
    average_precision: Floats = field(default_factory=lambda: np.empty(0))
    """Of each class against the rest; likewise."""
    calibration_error: float = math.nan
    loss: float = math.nan
    """Mean cross-entropy, nats per row."""

    @property
    def rows(self) -> int:
        """How many rows were counted."""
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
        """Share of the rows that are predicted right."""
        return float(np.trace(self.confusion) / self.rows)

    @property
    def matthews(self) -> float:
        """Correlation of true and predicted classes, in -1..1 (Gorodkin 2004); 0 where either is always the same."""
        # Floats, because a product of four counts does not fit into an integer.
        true, predicted = self.support.astype(np.float64), self.predicted.astype(np.float64)
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

    def _f_score(self, beta: float) -> Floats:
        """Return the weighted harmonic mean of precision and recall (van Rijsbergen 1979) of each class."""
        return ratio((1 + beta**2) * np.diagonal(self.confusion), self.predicted + beta**2 * self.support)


def count_confusion(
    predictions: ClassPredictions, *, positive: int | None, beta: float, ranks: bool = True
) -> ConfusionCounts:
    """Count predictions; the class predicted is the likeliest, of equals the first.

    A model that diverged, whose probabilities are no numbers, is counted like any other.

    Args:
        predictions: of at least one row.
        positive: the positive class of two; None where there are more.
        beta: how many times as much as precision recall counts in `fbeta`.
        ranks: whether `roc_auc` and `average_precision` are computed, which takes longer than all else.
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
