"""Multi-label scores: of rows that have any number of labels each, given from a threshold of probability on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ConfigurationError, nearest
from hpo.messages import Scores
from hpo.metrics.classification import OF_RANKS
from hpo.metrics.confusion import Floats, Integers, ranking_scores, ratio
from hpo.metrics.metric import Metric, Objective
from hpo.metrics.predictions import SMALLEST

Booleans = NDArray[np.bool_]

USUAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelAnswers:
    """Which labels rows have, and how probable each is said to be. Matrices have shape (rows, labels)."""

    true: Booleans
    probabilities: Floats
    thresholds: Floats
    """From which probability on a label is given, shape (labels,)."""
    loss: float
    """Mean over rows of the cross-entropy summed over labels, in nats."""

    @classmethod
    def of(cls, true: Booleans, probabilities: Floats, thresholds: Floats) -> "LabelAnswers":
        """Return these with the loss that follows from the probabilities; what is impossible costs 36 at most."""
        told = np.maximum(np.where(true, probabilities, 1 - probabilities), SMALLEST)
        loss = float(-np.log(told).sum(axis=1).mean())
        return cls(true=true, probabilities=probabilities, thresholds=thresholds, loss=loss)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.true)

    @property
    def given(self) -> Booleans:
        """Which labels are given."""
        given: Booleans = self.probabilities >= self.thresholds
        return given

    @property
    def right(self) -> Booleans:
        """Which rows are given their labels and no other, shape (rows,)."""
        right: Booleans = (self.given == self.true).all(axis=1)
        return right

    def turned(self, rows: Booleans) -> "LabelAnswers":
        """Return these with one decision of some rows turned round: of the label that is nearest to its threshold."""
        probabilities, which = self.probabilities.copy(), np.flatnonzero(rows)
        nearest = np.abs(probabilities[which] - self.thresholds).argmin(axis=1)
        thresholds = self.thresholds[nearest]
        below = np.nextafter(thresholds, -1.0)
        probabilities[which, nearest] = np.where(probabilities[which, nearest] >= thresholds, below, thresholds)
        return LabelAnswers.of(self.true, probabilities, self.thresholds)

    def take(self, rows: Integers | Booleans) -> "LabelAnswers":
        """Return those of some rows."""
        return LabelAnswers.of(self.true[rows], self.probabilities[rows], self.thresholds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelCounts:
    """Decisions, counted: hits (given and true), given, true."""

    of_labels: Integers
    """Shape (3, labels)."""
    of_rows: Integers
    """Shape (3, rows)."""
    roc_auc: float
    """Mean over the labels that some rows have and some have not; 1/2 where there is none."""
    average_precision: float
    """Mean over the labels that some row has; 0 where there is none."""
    loss: float


COUNTS: Mapping[str, tuple[Callable[[LabelCounts], Integers], str]] = {
    "micro": (lambda tally: tally.of_labels.sum(axis=1, keepdims=True), "of all decisions pooled"),
    "macro": (lambda tally: tally.of_labels, "of each label, labels counted alike"),
    "samples": (lambda tally: tally.of_rows, "of each row, rows counted alike"),
}
"""Average -> the counts that it is the mean over, and what it is."""
RATIOS: Mapping[str, tuple[Callable[..., Floats], str]] = {
    "f1": (lambda hits, given, true: ratio(2 * hits, given + true), "harmonic mean of precision and recall"),
    "precision": (lambda hits, given, _: ratio(hits, given), "share of the given labels that are true"),
    "recall": (lambda hits, _, true: ratio(hits, true), "share of the true labels that are given"),
}
"""Score -> how it follows from counts, 0 where there are none; and what it is."""


def _mean(average: str, score: str, tally: LabelCounts) -> float:
    return float(RATIOS[score][0](*COUNTS[average][0](tally)).mean())


METRICS: Mapping[str, Metric] = {
    f"{average}_{score}": Metric(
        description=f"{RATIOS[score][1]}, {COUNTS[average][1]}",
        source=f"sklearn.metrics.{score}_score",
        of=partial(_mean, average, score),
        of_rows=average != "macro",
    )
    for average in COUNTS
    for score in RATIOS
} | {
    "accuracy": Metric(
        description="share of the rows that are given their labels and no other",
        source="sklearn.metrics.accuracy_score",
        of=lambda tally: float((tally.of_rows == tally.of_rows[0]).all(axis=0).mean()),
        of_rows=True,
    ),
    "roc_auc": Metric(
        description="area under the ROC curve, the mean over labels",
        source="sklearn.metrics.roc_auc_score",
        of=lambda tally: tally.roc_auc,
    ),
    "average_precision": Metric(
        description="average precision, the mean over labels",
        source="sklearn.metrics.average_precision_score",
        of=lambda tally: tally.average_precision,
    ),
    "neg_log_loss": Metric(
        description="minus the cross-entropy summed over labels, the mean over rows, in nats",
        source="sklearn.metrics.log_loss",
        of=lambda tally: -tally.loss,
        limits=(-math.inf, 0.0),
        of_rows=True,
    ),
}


def tally(answers: LabelAnswers, *, ranks: bool = True) -> LabelCounts:
    """Count answers, of at least one row; without `ranks`, those of `OF_RANKS` are no numbers."""
    columns = [(true, said) for true, said in zip(answers.true.T, answers.probabilities.T, strict=True) if true.any()]
    scores = [(*ranking_scores(true, said), true.all()) for true, said in columns] if ranks else []
    return LabelCounts(
        of_labels=np.array([side.sum(axis=0) for side in _sides(answers)]),
        of_rows=np.array([side.sum(axis=1) for side in _sides(answers)]),
        roc_auc=fmean([area for area, _, everywhere in scores if not everywhere] or [0.5]),
        average_precision=fmean([precision for _, precision, _ in scores] or [0.0]),
        loss=answers.loss,
    )


def _sides(answers: LabelAnswers) -> tuple[Booleans, Booleans, Booleans]:
    return answers.given & answers.true, answers.given, answers.true


def resolve_multi_label_metric(metric: str) -> Objective:
    """Decide which score counts: one of `METRICS`, or `auto`, which is `micro_f1`.

    Raises:
        ConfigurationError: no such metric.
    """
    metric = "micro_f1" if metric == "auto" else metric
    if metric not in METRICS:
        raise ConfigurationError(f"Multi-label has no metric {metric!r}. {nearest(metric, ['auto', *METRICS])}")
    return Objective(metric=metric, note=f"The objective is {metric}: {METRICS[metric].description}.")


def multi_label_score(answers: LabelAnswers, metric: str) -> float:
    """Score answers by one of `METRICS` alone."""
    return float(METRICS[metric].of(tally(answers, ranks=metric in OF_RANKS)))


def multi_label_scores(answers: LabelAnswers, *, label_names: Sequence[str], objective: Objective) -> Scores:
    """Score answers by every metric; the formulas are in `docs/metrics.md`."""
    counted = tally(answers)
    columns = {name: ratio_of(*counted.of_labels) for name, (ratio_of, _) in RATIOS.items()}
    columns |= {"support": counted.of_labels[2], "threshold": answers.thresholds}
    return Scores(
        metric=objective.metric,
        values={name: metric.of(counted) for name, metric in METRICS.items()} | {"loss": answers.loss},
        rows=answers.rows,
        per_class={
            label: {name: float(column[number]) for name, column in columns.items()}
            for number, label in enumerate(label_names)
        },
    )


def scores_without(answers: LabelAnswers, groups: Integers, metric: str) -> Floats:
    """Return the score with each group of rows left out, where decisions tell it from what was counted of each group.

    Args:
        answers: of all rows.
        groups: of each row, from 0, no number left out; shape (rows,).
        metric: one of `METRICS`.

    Returns:
        shape (groups,).
    """
    each = range(int(groups.max()) + 1)
    if metric in (*OF_RANKS, "neg_log_loss"):
        return np.array([multi_label_score(answers.take(groups != group), metric) for group in each])
    whole, order = tally(answers, ranks=False), np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], each)
    of_groups = [np.add.reduceat(side[order], starts, dtype=np.int64) for side in _sides(answers)]
    left = (
        replace(whole, of_labels=whole.of_labels - counts, of_rows=whole.of_rows[:, groups != group])
        for group, counts in zip(each, np.stack(of_groups, axis=1), strict=True)
    )
    return np.array([METRICS[metric].of(tally) for tally in left])


def best_thresholds(true: Booleans, probabilities: Floats, *, per_label: bool) -> Floats:
    """Return the thresholds of largest F1: for each label its own, or one for all, of all decisions pooled.

    They lie midway between the probabilities that they divide; without a row that has the label at `USUAL_THRESHOLD`.

    Args:
        true: which labels rows have, shape (rows, labels).
        probabilities: shape (rows, labels).
        per_label: whether each label has its own.

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
