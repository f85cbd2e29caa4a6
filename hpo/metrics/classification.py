"""The scores of a classification, and the one among them that a study maximises."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hpo.messages import Scores
from hpo.metrics.own_metric import OwnMetric
from hpo.metrics.tally import Floats, Integers, Tally, tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score; more is better."""

    description: str
    source: str
    of: Callable[[Tally], float]
    """Its value."""
    of_positive_class: bool = False
    """Whether it is that of the positive class of two, and there is none for more classes."""


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        description="share of the rows that are predicted right",
        source="sklearn.metrics.accuracy_score",
        of=lambda t: t.accuracy,
    ),
    "balanced_accuracy": Metric(
        description="mean recall of the classes that have a row",
        source="sklearn.metrics.balanced_accuracy_score",
        of=lambda t: t.of_present(t.recall),
    ),
    "f1": Metric(
        description="harmonic mean of precision and recall of the positive class (two classes only)",
        source="sklearn.metrics.f1_score",
        of=lambda t: t.of_positive(t.f1),
        of_positive_class=True,
    ),
    "fbeta": Metric(
        description="F score of the positive class in which recall counts `beta` times as much (two classes only)",
        source="sklearn.metrics.fbeta_score",
        of=lambda t: t.of_positive(t.fbeta),
        of_positive_class=True,
    ),
    "precision": Metric(
        description="share of the rows predicted positive that are positive (two classes only)",
        source="sklearn.metrics.precision_score",
        of=lambda t: t.of_positive(t.precision),
        of_positive_class=True,
    ),
    "recall": Metric(
        description="share of the positive rows that are predicted positive (two classes only)",
        source="sklearn.metrics.recall_score",
        of=lambda t: t.of_positive(t.recall),
        of_positive_class=True,
    ),
    "macro_f1": Metric(
        description="mean of the classes' F1, each class counted alike",
        source="sklearn.metrics.f1_score",
        of=lambda t: t.f1.mean(),
    ),
    "macro_fbeta": Metric(
        description="mean of the classes' `fbeta`, each class counted alike",
        source="sklearn.metrics.fbeta_score",
        of=lambda t: t.fbeta.mean(),
    ),
    "macro_precision": Metric(
        description="mean of the classes' precision, each class counted alike",
        source="sklearn.metrics.precision_score",
        of=lambda t: t.precision.mean(),
    ),
    "macro_recall": Metric(
        description="mean of the classes' recall, each class counted alike",
        source="sklearn.metrics.recall_score",
        of=lambda t: t.recall.mean(),
    ),
    # Each row has one label, so a false positive of one class is a false negative of another: pooled, all are alike.
    "micro_f1": Metric(
        description="F1 of all decisions pooled; equals accuracy where each row has one label",
        source="sklearn.metrics.f1_score",
        of=lambda t: t.accuracy,
    ),
    "micro_precision": Metric(
        description="precision of all decisions pooled; equals accuracy where each row has one label",
        source="sklearn.metrics.precision_score",
        of=lambda t: t.accuracy,
    ),
    "micro_recall": Metric(
        description="recall of all decisions pooled; equals accuracy where each row has one label",
        source="sklearn.metrics.recall_score",
        of=lambda t: t.accuracy,
    ),
    "weighted_f1": Metric(
        description="mean of the classes' F1, each class counted by its rows",
        source="sklearn.metrics.f1_score",
        of=lambda t: t.weighted(t.f1),
    ),
    "weighted_fbeta": Metric(
        description="mean of the classes' `fbeta`, each class counted by its rows",
        source="sklearn.metrics.fbeta_score",
        of=lambda t: t.weighted(t.fbeta),
    ),
    "weighted_precision": Metric(
        description="mean of the classes' precision, each class counted by its rows",
        source="sklearn.metrics.precision_score",
        of=lambda t: t.weighted(t.precision),
    ),
    "weighted_recall": Metric(
        description="mean of the classes' recall, each class counted by its rows",
        source="sklearn.metrics.recall_score",
        of=lambda t: t.weighted(t.recall),
    ),
    "matthews": Metric(
        description="correlation of true and predicted classes, from -1 to 1 (MCC)",
        source="Gorodkin 2004",
        of=lambda t: t.matthews,
    ),
    "roc_auc": Metric(
        description="area under the ROC curve of the positive class, or the mean over classes against the rest",
        source="sklearn.metrics.roc_auc_score",
        of=lambda t: t.one_against_rest(t.roc_auc),
    ),
    "average_precision": Metric(
        description="average precision of the positive class, or the mean over classes against the rest",
        source="sklearn.metrics.average_precision_score",
        of=lambda t: t.one_against_rest(t.average_precision),
    ),
    "neg_log_loss": Metric(
        description="minus the mean cross-entropy, in nats",
        source="sklearn.metrics.log_loss",
        of=lambda t: -t.loss,
    ),
    "neg_calibration_error": Metric(
        description="minus the expected calibration error of the likeliest class, in 15 bins",
        source="Guo et al. 2017",
        of=lambda t: -t.calibration_error,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The score that a study maximises."""

    metric: str
    """One of `METRICS`, or `module:function`."""
    positive: str | None
    """The positive class of two; None where there are more."""
    note: str
    """A sentence for the user: what it is and why."""
    own: OwnMetric | None = None
    """The user's function, where `metric` names one."""


def classification_scores(
    true: Integers,
    probabilities: Floats,
    loss: float,
    *,
    label_names: Sequence[str],
    objective: Objective,
    beta: float,
) -> Scores:
    """Score predictions by every metric that these classes have, and by the user's own.

    The formulas, and what they are where there is nothing to count, are in `docs/metrics.md`.

    Args:
        true: class numbers, shape (rows,), at least one row.
        probabilities: shape (rows, classes), columns in the order of `label_names`.
        loss: mean cross-entropy of these rows in nats; passed through to the values.
        label_names: name of each class number.
        objective: which score counts, and the positive class, where there are two.
        beta: how many times as much as precision recall counts in `fbeta` and its kin.

    Raises:
        TrainingError: the user's own metric fails on these rows.
    """
    positive = None if objective.positive is None else label_names.index(objective.positive)
    counted = tally(true, probabilities, loss, positive=positive, beta=beta)
    fit = {name: metric for name, metric in METRICS.items() if positive is not None or not metric.of_positive_class}
    values = {name: float(metric.of(counted)) for name, metric in fit.items()} | {"loss": loss}
    if objective.own is not None:
        # Of a model that diverged there is nothing to ask the user's function about.
        values[objective.metric] = objective.own(true, probabilities) if math.isfinite(loss) else math.nan
    return Scores(
        metric=objective.metric,
        values=values,
        rows=counted.rows,
        per_class=_per_class(counted, label_names),
        confusion=tuple(map(tuple, counted.confusion.tolist())),
    )


def _per_class(counted: Tally, label_names: Sequence[str]) -> dict[str, dict[str, float]]:
    columns = {
        "precision": counted.precision.tolist(),
        "recall": counted.recall.tolist(),
        "f1": counted.f1.tolist(),
        "support": counted.support.tolist(),
    }
    return {
        label: {name: column[number] for name, column in columns.items()} for number, label in enumerate(label_names)
    }
