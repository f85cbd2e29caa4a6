"""Classification metrics: accuracy, F scores, areas under curves, log loss; the metric that trials are compared by."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError, nearest
from hpo.messages import Scores
from hpo.metrics.confusion import ClassPredictions, ConfusionCounts, Floats, Integers, count_confusion
from hpo.metrics.metric import Metric, SelectionMetric, refuse_unknown
from hpo.metrics.own_metric import load_own_metric

SCORES: Mapping[str, tuple[str, str]] = {
    "f1": ("F1", "harmonic mean of precision and recall of the positive class"),
    "fbeta": ("`fbeta`", "F score of the positive class in which recall counts `beta` times as much"),
    "precision": ("precision", "share of the rows predicted positive that are positive"),
    "recall": ("recall", "share of the positive rows that are predicted positive"),
}
"""Score of each class -> its description, and its description for the positive class of two."""
OF_RANKS = ("roc_auc", "average_precision")
"""Metrics that sort the rows class by class, which takes longer than all the others."""
PER_CLASS = ("precision", "recall", "f1", "support")
"""Scores that are stored for each class."""
TRIED_ROWS = 2
"""Rows of each label in the test call of a user-defined metric."""
POSITIVE_NAMES = ("true", "yes", "positive", "pos", "spam")
NEGATED = {
    "loss": "neg_log_loss",
    "log_loss": "neg_log_loss",
    "cross_entropy": "neg_log_loss",
    "calibration_error": "neg_calibration_error",
    "expected_calibration_error": "neg_calibration_error",
}
"""Metrics that would be minimised -> the metric that is maximised instead."""


def _of_classes(
    score: str, description: str, mean: Callable[[ConfusionCounts, Floats], float], *, of_rows: bool = True
) -> Metric:
    """Return the metric that averages one of `SCORES` over classes."""
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
    # Each row has one label, so a false positive of one class is a false negative of another: pooled, all are equal.
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


def classification_scores(predictions: ClassPredictions, label_names: Sequence[str], metric: SelectionMetric) -> Scores:
    """Score predictions by every metric available for these classes, and by the user's own.

    `docs/metrics.md` has the formulas, and their values where there is nothing to count.

    Args:
        predictions: of at least one row, columns in the order of `label_names`.
        label_names: name of each class number.
        metric: the one that trials are compared by, with the positive class if there are two.

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
        # For a model that diverged, the user's function is not called.
        finite = math.isfinite(predictions.loss)
        return (
            metric.own(**arguments_of(predictions.true, predictions.probabilities, label_names)) if finite else math.nan
        )
    ranks = metric.name in OF_RANKS
    counts = count_confusion(predictions, positive=_positive_number(metric, label_names), beta=metric.beta, ranks=ranks)
    return float(METRICS[metric.name].compute(counts))


def slice_f1(predictions: ClassPredictions, label_names: Sequence[str], metric: SelectionMetric) -> float:
    """Return F1 of the positive class of two, or for more classes the mean over those that occur.

    A part of the rows may lack a class; a class that is neither true nor predicted has no F1.
    """
    counts = count_confusion(predictions, positive=_positive_number(metric, label_names), beta=1.0, ranks=False)
    if counts.positive is not None:
        return counts.of_positive(counts.f1)
    return float(counts.f1[(counts.support > 0) | (counts.predicted > 0)].mean())


def _positive_number(metric: SelectionMetric, label_names: Sequence[str]) -> int | None:
    return None if metric.positive is None else label_names.index(metric.positive)


def arguments_of(true: Integers, probabilities: Floats, label_names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a user-defined metric: names of the true and of the most probable classes."""
    names = np.array(label_names)
    predicted = names[probabilities.argmax(axis=1)]
    return {"true": names[true], "predicted": predicted, "probabilities": probabilities, "labels": list(label_names)}


def resolve_metric(config: TaskConfig, label_names: Sequence[str], train_labels: Sequence[str]) -> SelectionMetric:
    """Choose the metric that trials are compared by, and the positive class of two.

    Args:
        config: `metric` is one of `METRICS`, `module:function`, or `auto`: `f1` for two classes, `macro_f1` for more.
            `positive_label` of None means the larger of two numbers, else one of `POSITIVE_NAMES`, else the rarer in
            training (of equally rare ones the last).
        label_names: the classes.
        train_labels: label of each training row.

    Raises:
        ConfigurationError: an unknown metric, or one that these classes do not have; an unknown positive label, or one
            for more than two classes; a function that cannot be found or fails on a test call.
    """
    two = len(label_names) == 2
    name = config.metric if config.metric != "auto" else "f1" if two else "macro_f1"
    own = load_own_metric(name, *_tries(label_names)) if ":" in name else None
    if own is None:
        _refuse_unfit(name, len(label_names))
    positive, reason = None, ""
    if two:
        positive, reason = _positive(label_names, train_labels, config.positive_label)
    elif config.positive_label is not None:
        raise ConfigurationError(
            f"positive_label is {config.positive_label!r}, but a positive class needs two classes and there are "
            f"{len(label_names)}; leave it out."
        )
    note = _note(name, positive, reason)
    return SelectionMetric(name=name, positive=positive, beta=config.beta, note=note, own=own)


def _tries(label_names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return some rows of each label, all predicted right, then all wrong, and a description of them for messages."""
    certain = np.eye(len(label_names)).repeat(TRIED_ROWS, axis=0)
    true = certain.argmax(axis=1)
    right, wrong = (arguments_of(true, one, label_names) for one in (certain, np.roll(certain, TRIED_ROWS, axis=0)))
    called = "it is called as function(true, predicted), with arrays of label names"
    return right, wrong, f"{TRIED_ROWS} rows of each label, all predicted right, then all wrong; {called}"


def _note(metric: str, positive: str | None, reason: str) -> str:
    """Return a sentence on the metric, the positive class and the reason."""
    entry = METRICS.get(metric)
    if entry is not None and entry.of_positive_class:
        shown = "F1" if metric == "f1" else metric
        return f"The metric is {shown} of the positive class {positive!r} ({reason})."
    description = entry.description if entry else "a function of your own, maximised"
    about_positive = "" if positive is None else f"; the positive class is {positive!r} ({reason})"
    return f"The metric is {metric}: {description}{about_positive}."


def _refuse_unfit(metric: str, classes: int) -> None:
    """Refuse an unknown metric, or one that this number of classes does not have."""
    refuse_unknown(metric, METRICS, "Classification", NEGATED)
    if METRICS[metric].of_positive_class and classes != 2:
        means = [name for name in (f"macro_{metric}", f"weighted_{metric}", f"micro_{metric}") if name in METRICS]
        raise ConfigurationError(
            f"{metric!r} is that of one positive class of two, but there are {classes} classes; "
            f"choose {', '.join(means[:-1])} or {means[-1]}."
        )


def _positive(label_names: Sequence[str], train_labels: Sequence[str], positive_label: str | None) -> tuple[str, str]:
    """Return the positive class of two, and the reason."""
    if positive_label is not None:
        if positive_label not in label_names:
            raise ConfigurationError(f"There is no label {positive_label!r}. {nearest(positive_label, label_names)}")
        return positive_label, "as asked"
    if numbers := _numbers(label_names):
        # For 0 and 1, or -1 and 1, the larger is always meant.
        usual = max(numbers) == 1 and min(numbers) in (0, -1)
        lower, higher = (numbers[number] for number in sorted(numbers))
        return higher, "by its name" if usual else f"the larger number; task.positive_label={lower} takes the other"
    named = {name.casefold(): name for name in label_names}
    for name in POSITIVE_NAMES:
        if name in named:
            return named[name], "by its name"
    counts = Counter(train_labels)
    first, last = label_names
    if counts[first] == counts[last]:
        return last, "the last of two equally frequent in training"
    return min(label_names, key=counts.__getitem__), "the rarer in training"


def _numbers(label_names: Sequence[str]) -> dict[float, str]:
    """Return labels by their numbers; empty if they are not all different numbers."""
    try:
        numbers = {float(name): name for name in label_names}
    except ValueError:
        return {}
    return numbers if len(numbers) == len(label_names) and all(map(math.isfinite, numbers)) else {}
