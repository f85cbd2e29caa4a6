"""Multi-label metrics: F scores pooled, by label and by row, areas under curves and log loss; thresholds."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from hpo.messages import Scores
from hpo.metrics.classification import NEGATED, OF_RANKS
from hpo.metrics.confusion import SMALLEST, Floats, Integers, ranking_scores, ratio
from hpo.metrics.metric import Metric, SelectionMetric, refuse_unknown

Booleans = NDArray[np.bool_]

USUAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelPredictions:
    """True labels and predicted probabilities. Matrices have shape (rows, labels)."""

    true: Booleans
    probabilities: Floats
    thresholds: Floats
    """Probability from which a label is predicted, shape (labels,)."""
    loss: float
    """Mean over rows of the cross-entropy summed over labels, in nats."""

    @classmethod
    def of(
        cls, true: Booleans, probabilities: Floats, thresholds: Floats, loss: float | None = None
    ) -> "LabelPredictions":
        """Return the object; a loss of None is computed from the probabilities (36 nats for an impossible label)."""
        if loss is None:
            of_true = np.maximum(np.where(true, probabilities, 1 - probabilities), SMALLEST)
            loss = float(-np.log(of_true).sum(axis=1).mean())
        return cls(true=true, probabilities=probabilities, thresholds=thresholds, loss=loss)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.true)

    @property
    def predicted(self) -> Booleans:
        """True where a label is predicted."""
        predicted: Booleans = self.probabilities >= self.thresholds
        return predicted

    @property
    def correct(self) -> Booleans:
        """True for rows whose predicted labels are exactly the true ones, shape (rows,)."""
        correct: Booleans = (self.predicted == self.true).all(axis=1)
        return correct

    def flipped(self, rows: Booleans) -> "LabelPredictions":
        """Return the predictions with one decision of some rows flipped, that of the label nearest to its threshold."""
        probabilities, which = self.probabilities.copy(), np.flatnonzero(rows)
        nearest = np.abs(probabilities[which] - self.thresholds).argmin(axis=1)
        thresholds = self.thresholds[nearest]
        below = np.nextafter(thresholds, -1.0)
        probabilities[which, nearest] = np.where(probabilities[which, nearest] >= thresholds, below, thresholds)
        return LabelPredictions.of(self.true, probabilities, self.thresholds)

    def take(self, rows: Integers | Booleans) -> "LabelPredictions":
        """Return the predictions of some rows."""
        return LabelPredictions.of(self.true[rows], self.probabilities[rows], self.thresholds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecisionCounts:
    """Counts of decisions: hits (predicted and true), predicted, true."""

    of_labels: Integers
    """Shape (3, labels)."""
    of_rows: Integers
    """Shape (3, rows)."""
    roc_auc: float
    """Mean over the labels that some rows have and others do not; 1/2 if there is none."""
    average_precision: float
    """Mean over the labels that some row has; 0 if there is none."""
    loss: float


COUNTS: Mapping[str, tuple[Callable[[DecisionCounts], Integers], str]] = {
    "micro": (lambda counts: counts.of_labels.sum(axis=1, keepdims=True), "of all decisions pooled"),
    "macro": (lambda counts: counts.of_labels, "of each label, labels counted alike"),
    "samples": (lambda counts: counts.of_rows, "of each row, rows counted alike"),
}
"""Average -> the counts that it averages over, and its description."""
RATIOS: Mapping[str, tuple[Callable[..., Floats], str]] = {
    "f1": (lambda hits, predicted, true: ratio(2 * hits, predicted + true), "harmonic mean of precision and recall"),
    "precision": (lambda hits, predicted, _: ratio(hits, predicted), "share of the predicted labels that are true"),
    "recall": (lambda hits, _, true: ratio(hits, true), "share of the true labels that are predicted"),
}
"""Score -> its formula from counts, 0 where there are none; and its description."""


def _mean(average: str, score: str, counts: DecisionCounts) -> float:
    return float(RATIOS[score][0](*COUNTS[average][0](counts)).mean())


METRICS: Mapping[str, Metric] = {
    f"{average}_{score}": Metric(
        description=f"{RATIOS[score][1]}, {COUNTS[average][1]}",
        source=f"sklearn.metrics.{score}_score",
        compute=partial(_mean, average, score),
        of_rows=average != "macro",
    )
    for average in COUNTS
    for score in RATIOS
} | {
    "accuracy": Metric(
        description="share of the rows that are predicted to have their labels and no other",
        source="sklearn.metrics.accuracy_score",
        compute=lambda counts: float((counts.of_rows == counts.of_rows[0]).all(axis=0).mean()),
        of_rows=True,
    ),
    "roc_auc": Metric(
        description="area under the ROC curve, the mean over labels",
        source="sklearn.metrics.roc_auc_score",
        compute=lambda counts: counts.roc_auc,
    ),
    "average_precision": Metric(
        description="average precision, the mean over labels",
        source="sklearn.metrics.average_precision_score",
        compute=lambda counts: counts.average_precision,
    ),
    "neg_log_loss": Metric(
        description="minus the cross-entropy summed over labels, the mean over rows, in nats",
        source="sklearn.metrics.log_loss",
        compute=lambda counts: -counts.loss,
        limits=(-math.inf, 0.0),
        of_rows=True,
    ),
}


def count_decisions(predictions: LabelPredictions, *, ranks: bool = True) -> DecisionCounts:
    """Count predictions, of at least one row; without `ranks` the values of `OF_RANKS` are meaningless."""
    columns = zip(predictions.true.T, predictions.probabilities.T, strict=True)
    scores = [(*ranking_scores(true, column), true.all()) for true, column in columns if ranks and true.any()]
    return DecisionCounts(
        of_labels=np.array([side.sum(axis=0) for side in _sides(predictions)]),
        of_rows=np.array([side.sum(axis=1) for side in _sides(predictions)]),
        roc_auc=fmean([area for area, _, everywhere in scores if not everywhere] or [0.5]),
        average_precision=fmean([precision for _, precision, _ in scores] or [0.0]),
        loss=predictions.loss,
    )


def _sides(predictions: LabelPredictions) -> tuple[Booleans, Booleans, Booleans]:
    return predictions.predicted & predictions.true, predictions.predicted, predictions.true


def resolve_multi_label_metric(name: str) -> SelectionMetric:
    """Choose the metric that trials are compared by: one of `METRICS`, or `auto`, which is `micro_f1`.

    Raises:
        ConfigurationError: an unknown metric.
    """
    name = "micro_f1" if name == "auto" else name
    refuse_unknown(name, METRICS, "Multi-label", NEGATED)
    return SelectionMetric(name=name, note=f"The metric is {name}: {METRICS[name].description}.")


def multi_label_score(predictions: LabelPredictions, metric: str) -> float:
    """Score predictions by one of `METRICS` alone."""
    return float(METRICS[metric].compute(count_decisions(predictions, ranks=metric in OF_RANKS)))


def multi_label_scores(predictions: LabelPredictions, label_names: Sequence[str], metric: str) -> Scores:
    """Score predictions by every metric; trials are compared by `metric`. `docs/metrics.md` has the formulas."""
    counts = count_decisions(predictions)
    columns = {name: ratio_of(*counts.of_labels) for name, (ratio_of, _) in RATIOS.items()}
    columns |= {"support": counts.of_labels[2], "threshold": predictions.thresholds}
    return Scores(
        metric=metric,
        values={name: one.compute(counts) for name, one in METRICS.items()} | {"loss": predictions.loss},
        rows=predictions.rows,
        per_class={
            label: {name: float(column[number]) for name, column in columns.items()}
            for number, label in enumerate(label_names)
        },
    )


def scores_without(predictions: LabelPredictions, groups: Integers, metric: str) -> Floats:
    """Return the score with each group of rows left out, if it can be computed from the counts of each group.

    Args:
        predictions: of all rows.
        groups: of each row, from 0, no number left out; shape (rows,).
        metric: one of `METRICS`.

    Returns:
        shape (groups,).
    """
    each = range(int(groups.max()) + 1)
    if metric in (*OF_RANKS, "neg_log_loss"):
        return np.array([multi_label_score(predictions.take(groups != group), metric) for group in each])
    whole, order = count_decisions(predictions, ranks=False), np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], each)
    of_groups = [np.add.reduceat(side[order], starts, dtype=np.int64) for side in _sides(predictions)]
    left = (
        replace(whole, of_labels=whole.of_labels - counts, of_rows=whole.of_rows[:, groups != group])
        for group, counts in zip(each, np.stack(of_groups, axis=1), strict=True)
    )
    return np.array([METRICS[metric].compute(counts) for counts in left])


def best_thresholds(true: Booleans, probabilities: Floats, *, per_label: bool) -> Floats:
    """Return the thresholds that maximise F1: one per label, or one for all by the pooled decisions.

    They lie midway between the probabilities that they separate; without a row that has the label, `USUAL_THRESHOLD`.

    Args:
        true: labels of the rows, shape (rows, labels).
        probabilities: shape (rows, labels).
        per_label: True for one threshold per label.

    Returns:
        shape (labels,).
    """
    if per_label:
        return np.array([_best_threshold(*column) for column in zip(true.T, probabilities.T, strict=True)])
    return np.full(true.shape[1], _best_threshold(true.ravel(), probabilities.ravel()))


def _best_threshold(true: Booleans, probabilities: Floats) -> float:
    if not true.any():
        return USUAL_THRESHOLD
    order = np.argsort(-probabilities)
    ranked = probabilities[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    best = ends[(true[order].cumsum()[ends] / (ends + 1 + true.sum())).argmax()]
    return float((ranked[best] + (ranked[best + 1] if best + 1 < len(ranked) else 0.0)) / 2)
