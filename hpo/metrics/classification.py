"""Classification metrics: accuracy, F scores, correlation, areas under curves, log loss and calibration error."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hpo.messages import Scores
from hpo.metrics.confusion import ClassPredictions, ConfusionCounts, Floats, Integers, count_confusion
from hpo.metrics.metric import Metric, SelectionMetric

SCORES: Mapping[str, tuple[str, str]] = {
    "f1": ("F1", "harmonic mean of precision and recall of the positive class"),
    "fbeta": ("`fbeta`", "F score of the positive class in which recall counts `beta` times as much"),
    "precision": ("precision", "share of the rows predicted positive that are positive"),
    "recall": ("recall", "share of the positive rows that are predicted positive"),
}
"""Score that each class has -> what it is called, and what it is of the positive class of two."""


def _of_classes(
    score: str, description: str, mean: Callable[[ConfusionCounts, Floats], float], *, of_rows: bool = True
) -> Metric:
    """Return the metric that is a mean of one of `SCORES` over classes."""
    source = f"sklearn.metrics.{score}_score"
    return Metric(description=description, source=source, compute=lambda t: mean(t, getattr(t, score)), of_rows=of_rows)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        description="share of the rows that are predicted right",
        source="sklearn.metrics.accuracy_score",
        compute=lambda t: t.accuracy,
        of_rows=True,
    ),
    "balanced_accuracy": Metric(
        description="mean recall of the classes that have a row",
        source="sklearn.metrics.balanced_accuracy_score",
        compute=lambda t: t.of_present(t.recall),
    ),
    **{
        score: replace(
            _of_classes(score, f"{description} (two classes only)", ConfusionCounts.of_positive, of_rows=False),
            of_positive_class=True,
        )
        for score, (_, description) in SCORES.items()
    },
    **{
        f"macro_{score}": _of_classes(
            score, f"mean of the classes' {name}, each class counted alike", lambda _, each: each.mean(), of_rows=False
        )
        for score, (name, _) in SCORES.items()
    },
    # Each row has one label, so a false positive of one class is a false negative of another: pooled, all are alike.
    **{
        f"micro_{score}": _of_classes(
            score,
            f"{name} of all decisions pooled; equals accuracy where each row has one label",
            lambda t, _: t.accuracy,
        )
        for score, (name, _) in SCORES.items()
        if score != "fbeta"
    },
    **{
        f"weighted_{score}": _of_classes(
            score, f"mean of the classes' {name}, each class counted by its rows", ConfusionCounts.weighted
        )
        for score, (name, _) in SCORES.items()
    },
    "matthews": Metric(
        description="correlation of true and predicted classes, from -1 to 1 (MCC)",
        source="Gorodkin 2004",
        compute=lambda t: t.matthews,
        limits=(-1.0, 1.0),
    ),
    "roc_auc": Metric(
        description="area under the ROC curve of the positive class, or the mean over classes against the rest",
        source="sklearn.metrics.roc_auc_score",
        compute=lambda t: t.one_against_rest(t.roc_auc),
    ),
    "average_precision": Metric(
        description="average precision of the positive class, or the mean over classes against the rest",
        source="sklearn.metrics.average_precision_score",
        compute=lambda t: t.one_against_rest(t.average_precision),
    ),
    "neg_log_loss": Metric(
        description="minus the mean cross-entropy, in nats",
        source="sklearn.metrics.log_loss",
        compute=lambda t: -t.loss,
        limits=(-math.inf, 0.0),
        of_rows=True,
    ),
    "neg_calibration_error": Metric(
        description="minus the expected calibration error of the likeliest class, in 15 bins",
        source="Guo et al. 2017",
        compute=lambda t: -t.calibration_error,
        limits=(-1.0, 0.0),
        of_rows=True,
    ),
}
OF_RANKS = ("roc_auc", "average_precision")
"""Those that sort the rows, class by class, which takes longer than all else."""
PER_CLASS = ("precision", "recall", "f1", "support")
"""What is stored of each class."""


def classification_scores(predictions: ClassPredictions, label_names: Sequence[str], metric: SelectionMetric) -> Scores:
    """Score predictions by every metric that these classes have, and by the user's own.

    The formulas, and what they are where there is nothing to count, are in `docs/metrics.md`.

    Args:
        predictions: of at least one row, columns in the order of `label_names`.
        label_names: name of each class number.
        metric: the one that trials are compared by, with the positive class where there are two.

    Raises:
        TrainingError: the user's own metric fails on these rows.
    """
    counts = count_confusion(predictions, positive=_positive_number(metric, label_names), beta=metric.beta)
    fit = {name: one for name, one in METRICS.items() if metric.positive is not None or not one.of_positive_class}
    values = {name: float(one.compute(counts)) for name, one in fit.items()} | {"loss": predictions.loss}
    if metric.own is not None:
        values[metric.name] = classification_score(predictions, label_names, metric)
    columns = {name: getattr(counts, name).tolist() for name in PER_CLASS}
    return Scores(
        metric=metric.name,
        values=values,
        rows=counts.rows,
        per_class={label: {n: column[i] for n, column in columns.items()} for i, label in enumerate(label_names)},
        confusion=tuple(map(tuple, counts.confusion.tolist())),
    )


def classification_score(predictions: ClassPredictions, label_names: Sequence[str], metric: SelectionMetric) -> float:
    """Score predictions by `metric` alone; takes and raises what `classification_scores` does."""
    if metric.own is not None:
        # Of a model that diverged there is nothing to ask the user's function about.
        finite = math.isfinite(predictions.loss)
        return (
            metric.own(**arguments_of(predictions.true, predictions.probabilities, label_names)) if finite else math.nan
        )
    ranks = metric.name in OF_RANKS
    counts = count_confusion(predictions, positive=_positive_number(metric, label_names), beta=metric.beta, ranks=ranks)
    return float(METRICS[metric.name].compute(counts))


def slice_f1(predictions: ClassPredictions, label_names: Sequence[str], metric: SelectionMetric) -> float:
    """Return F1 of the positive class of two, or of more classes the mean over those that are there.

    On a part of the rows a class may be missing; one that is neither true nor predicted has no F1.
    """
    counts = count_confusion(predictions, positive=_positive_number(metric, label_names), beta=1.0, ranks=False)
    if counts.positive is not None:
        return counts.of_positive(counts.f1)
    return float(counts.f1[(counts.support > 0) | (counts.predicted > 0)].mean())


def _positive_number(metric: SelectionMetric, label_names: Sequence[str]) -> int | None:
    return None if metric.positive is None else label_names.index(metric.positive)


def arguments_of(true: Integers, probabilities: Floats, label_names: Sequence[str]) -> dict[str, Any]:
    """Return what a metric of the user's own is called with: names of the true and of the likeliest classes."""
    names = np.array(label_names)
    predicted = names[probabilities.argmax(axis=1)]
    return {"true": names[true], "predicted": predicted, "probabilities": probabilities, "labels": list(label_names)}
