"""Accuracy, precision, recall and F1, all from one confusion matrix, and which of them is the objective."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ConfigurationError, nearest
from hpo.messages import Scores

METRICS: dict[str, str] = {
    "accuracy": "share of the rows that are predicted right",
    "f1": "harmonic mean of precision and recall of the positive class (two classes only)",
    "precision": "share of the rows predicted positive that are positive (two classes only)",
    "recall": "share of the positive rows that are predicted positive (two classes only)",
    "macro_f1": "mean of the classes' F1, each class counted alike",
    "macro_precision": "mean of the classes' precision, each class counted alike",
    "macro_recall": "mean of the classes' recall, each class counted alike",
    "micro_f1": "F1 of all decisions pooled; equals accuracy where each row has one label",
    "micro_precision": "precision of all decisions pooled; equals accuracy where each row has one label",
    "micro_recall": "recall of all decisions pooled; equals accuracy where each row has one label",
    "weighted_f1": "mean of the classes' F1, each class counted by its rows",
    "weighted_precision": "mean of the classes' precision, each class counted by its rows",
    "weighted_recall": "mean of the classes' recall, each class counted by its rows",
}
OF_POSITIVE_CLASS = ("f1", "precision", "recall")
POSITIVE_NAMES = ("1", "true", "yes", "positive")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The score that a study maximises."""

    metric: str
    """One of `METRICS`."""
    positive: str | None
    """The positive class of two; None where there are more."""
    note: str
    """A sentence for the user: what it is and why."""


def classification_scores(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    label_names: Sequence[str],
    metric: str,
    positive: str | None,
    loss: float | None = None,
) -> Scores:
    """Score predictions.

    A ratio without anything to count (no row predicted as a class, or none of it) is 0. Macro means run over
    all of `label_names`, whether or not a class stands among these rows. The formulas are in
    `docs/metrics.md`.

    Args:
        true: class numbers, shape (rows,), at least one row.
        predicted: class numbers, shape (rows,).
        label_names: name of each class number.
        metric: name of the objective, one of `METRICS`.
        positive: the positive class, where there are two; adds its precision, recall and F1.
        loss: mean loss in nats per example, passed through to the values.
    """
    # Here, because importing scikit-learn takes a second that the command line need not pay.
    from sklearn.metrics import confusion_matrix

    confusion = confusion_matrix(true, predicted, labels=np.arange(len(label_names)))
    support = confusion.sum(axis=1)
    of_class = _of_class(np.diagonal(confusion), confusion.sum(axis=0), support)
    values = {"accuracy": float(np.trace(confusion) / support.sum())} | _averages(of_class, support)
    # Each row has one label, so a false positive of one class is a false negative of another: pooled, all are alike.
    values |= {f"micro_{name}": values["accuracy"] for name in of_class}
    if positive is not None:
        values |= {name: float(of_class[name][label_names.index(positive)]) for name in OF_POSITIVE_CLASS}
    if loss is not None:
        values["loss"] = loss
    return Scores(
        metric=metric,
        values=values,
        rows=int(support.sum()),
        per_class=_per_class(of_class, support, label_names),
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def resolve_metric(
    metric: str, label_names: Sequence[str], train_labels: Sequence[str], positive_label: str | None
) -> Objective:
    """Decide which score counts, and of two classes which one is positive.

    Args:
        metric: one of `METRICS`, or `auto`: `f1` for two classes, `macro_f1` for more.
        label_names: the classes.
        train_labels: label of each training row.
        positive_label: the positive class; None to have it told by its name (one of `POSITIVE_NAMES`), else
            to take the rarer in training, of equals the last.

    Raises:
        ConfigurationError: no such metric, or one that these classes do not have; no such label, or more than
            two.
    """
    two = len(label_names) == 2
    if metric == "auto":
        metric = "f1" if two else "macro_f1"
    if metric not in METRICS:
        raise ConfigurationError(f"There is no metric {metric!r}. {nearest(metric, ['auto', *METRICS])}")
    if metric in OF_POSITIVE_CLASS and not two:
        raise ConfigurationError(
            f"{metric!r} is that of one positive class of two, but there are {len(label_names)} classes; "
            f"choose macro_{metric}, weighted_{metric} or micro_{metric}."
        )
    if not two:
        _refuse_positive(label_names, positive_label)
        return Objective(metric=metric, positive=None, note=f"The objective is {metric}: {METRICS[metric]}.")
    positive, reason = _positive(label_names, train_labels, positive_label)
    if metric in OF_POSITIVE_CLASS:
        spoken = "F1" if metric == "f1" else metric
        note = f"The objective is {spoken} of the positive class {positive!r} ({reason})."
    else:
        note = f"The objective is {metric}: {METRICS[metric]}; the positive class is {positive!r} ({reason})."
    return Objective(metric=metric, positive=positive, note=note)


def _of_class(hits: NDArray[np.int64], predicted: NDArray[np.int64], support: NDArray[np.int64]) -> dict[str, Floats]:
    """Return precision, recall and F1 of each class; arrays of shape (classes,)."""
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, predicted + support),
    }


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def _averages(of_class: dict[str, Floats], support: NDArray[np.int64]) -> dict[str, float]:
    """Return the macro and the weighted mean of each score over the classes."""
    macro = {f"macro_{name}": float(scores.mean()) for name, scores in of_class.items()}
    weighted = {f"weighted_{name}": float(scores @ support / support.sum()) for name, scores in of_class.items()}
    return macro | weighted


def _per_class(
    of_class: dict[str, Floats], support: NDArray[np.int64], label_names: Sequence[str]
) -> dict[str, dict[str, float]]:
    columns = {name: scores.tolist() for name, scores in of_class.items()} | {"support": support.tolist()}
    return {
        label: {name: column[number] for name, column in columns.items()} for number, label in enumerate(label_names)
    }


def _refuse_positive(label_names: Sequence[str], positive_label: str | None) -> None:
    if positive_label is not None:
        raise ConfigurationError(
            f"positive_label is {positive_label!r}, but a positive class needs two classes and there are "
            f"{len(label_names)}; leave it out."
        )


def _positive(label_names: Sequence[str], train_labels: Sequence[str], positive_label: str | None) -> tuple[str, str]:
    """Return the positive class of two, and why it is that."""
    if positive_label is not None:
        if positive_label not in label_names:
            raise ConfigurationError(f"There is no label {positive_label!r}. {nearest(positive_label, label_names)}")
        return positive_label, "as asked"
    named = {name.casefold(): name for name in label_names}
    for name in POSITIVE_NAMES:
        if name in named:
            return named[name], "by its name"
    counts = Counter(train_labels)
    first, last = label_names
    if counts[first] == counts[last]:
        return last, "the last of two equally frequent in training"
    return min(label_names, key=counts.__getitem__), "the rarer in training"
