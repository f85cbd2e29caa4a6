"""Scores of a classification."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hpo.messages import Scores
from hpo.metrics.confusion import ConfusionCounts, Floats, Integers, tally
from hpo.metrics.metric import Metric, Objective
from hpo.metrics.own_metric import Arguments, OwnMetric
from hpo.metrics.predictions import Predictions

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
    return Metric(description=description, source=source, of=lambda t: mean(t, getattr(t, score)), of_rows=of_rows)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        description="share of the rows that are predicted right",
        source="sklearn.metrics.accuracy_score",
        of=lambda t: t.accuracy,
        of_rows=True,
    ),
    "balanced_accuracy": Metric(
        description="mean recall of the classes that have a row",
        source="sklearn.metrics.balanced_accuracy_score",
        of=lambda t: t.of_present(t.recall),
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
        of=lambda t: t.matthews,
        limits=(-1.0, 1.0),
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
        limits=(-math.inf, 0.0),
        of_rows=True,
    ),
    "neg_calibration_error": Metric(
        description="minus the expected calibration error of the likeliest class, in 15 bins",
        source="Guo et al. 2017",
        of=lambda t: -t.calibration_error,
        limits=(-1.0, 0.0),
        of_rows=True,
    ),
}
OF_RANKS = ("roc_auc", "average_precision")
"""Those that sort the rows, class by class, which takes longer than all else."""


def classification_scores(
    predictions: Predictions, *, label_names: Sequence[str], objective: Objective, beta: float
) -> Scores:
    """Score predictions by every metric that these classes have, and by the user's own.

    The formulas, and what they are where there is nothing to count, are in `docs/metrics.md`.

    Args:
        predictions: of at least one row, columns in the order of `label_names`.
        label_names: name of each class number.
        objective: which score counts, and the positive class, where there are two.
        beta: how many times as much as precision recall counts in `fbeta` and its kin.

    Raises:
        TrainingError: the user's own metric fails on these rows.
    """
    positive = _positive_number(objective, label_names)
    counted = tally(predictions, positive=positive, beta=beta)
    fit = {name: metric for name, metric in METRICS.items() if positive is not None or not metric.of_positive_class}
    values = {name: float(metric.of(counted)) for name, metric in fit.items()} | {"loss": predictions.loss}
    if objective.own is not None:
        values[objective.metric] = _own_score(objective.own, predictions, label_names)
    return Scores(
        metric=objective.metric,
        values=values,
        rows=counted.rows,
        per_class=_per_class(counted, label_names),
        confusion=tuple(map(tuple, counted.confusion.tolist())),
    )


def objective_score(
    predictions: Predictions, *, label_names: Sequence[str], objective: Objective, beta: float
) -> float:
    """Score predictions by the objective alone; takes and raises what `classification_scores` does."""
    if objective.own is not None:
        return _own_score(objective.own, predictions, label_names)
    metric = METRICS[objective.metric]
    ranks = objective.metric in OF_RANKS
    return float(
        metric.of(tally(predictions, positive=_positive_number(objective, label_names), beta=beta, ranks=ranks))
    )


def f1_among(predictions: Predictions, *, label_names: Sequence[str], objective: Objective) -> float:
    """Return F1 of the positive class of two, or of more classes the mean over those that are there.

    On a part of the rows a class may be missing; one that is neither true nor predicted has no F1.
    """
    counted = tally(predictions, positive=_positive_number(objective, label_names), beta=1.0, ranks=False)
    if counted.positive is not None:
        return counted.of_positive(counted.f1)
    there = (counted.support > 0) | (counted.confusion.sum(axis=0) > 0)
    return float(counted.f1[there].mean())


def _positive_number(objective: Objective, label_names: Sequence[str]) -> int | None:
    return None if objective.positive is None else label_names.index(objective.positive)


def arguments_of(true: Integers, probabilities: Floats, label_names: Sequence[str]) -> Arguments:
    """Return what a metric of the user's own is called with: names of the true and of the likeliest classes."""
    names = np.array(label_names)
    return Arguments(
        true=names[true],
        predicted=names[probabilities.argmax(axis=1)],
        others={"probabilities": probabilities, "labels": list(label_names)},
    )


def _own_score(own: OwnMetric, predictions: Predictions, label_names: Sequence[str]) -> float:
    # Of a model that diverged there is nothing to ask the user's function about.
    if not math.isfinite(predictions.loss):
        return math.nan
    return own(arguments_of(predictions.true, predictions.probabilities, label_names))


def _per_class(counted: ConfusionCounts, label_names: Sequence[str]) -> dict[str, dict[str, float]]:
    columns = {
        "precision": counted.precision.tolist(),
        "recall": counted.recall.tolist(),
        "f1": counted.f1.tolist(),
        "support": counted.support.tolist(),
    }
    return {
        label: {name: column[number] for name, column in columns.items()} for number, label in enumerate(label_names)
    }
