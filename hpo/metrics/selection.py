"""Selection metric of a classification: the metric that trials are compared by, and the positive class of two."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpo.config.study_file import TaskConfig
from hpo.errors import ConfigurationError, nearest
from hpo.metrics.classification import METRICS, arguments_of
from hpo.metrics.metric import SelectionMetric, refuse_unknown
from hpo.metrics.own_metric import load_own_metric

TRIED_ROWS = 2
"""Of each label, in the try of a metric of the user's own."""
POSITIVE_NAMES = ("true", "yes", "positive", "pos", "spam")
NEGATED = {
    "loss": "neg_log_loss",
    "log_loss": "neg_log_loss",
    "cross_entropy": "neg_log_loss",
    "calibration_error": "neg_calibration_error",
    "expected_calibration_error": "neg_calibration_error",
}
"""What one would minimise -> the metric that is maximised instead."""


def resolve_metric(config: TaskConfig, label_names: Sequence[str], train_labels: Sequence[str]) -> SelectionMetric:
    """Decide which metric trials are compared by, and of two classes which one is positive.

    Args:
        config: `metric` is one of `METRICS`; or `module:function`; or `auto`: `f1` for two classes, `macro_f1` for
            more. `positive_label` is None for the larger of two numbers, else one of `POSITIVE_NAMES`, else the rarer
            in training, of equals the last.
        label_names: the classes.
        train_labels: label of each training row.

    Raises:
        ConfigurationError: no such metric, or one that these classes do not have; no such label, or more than
            two; a function that cannot be found or fails on a try.
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
    """Return some rows of each label, all predicted right, then all wrong, and what a sentence says of them."""
    certain = np.eye(len(label_names)).repeat(TRIED_ROWS, axis=0)
    true = certain.argmax(axis=1)
    right, wrong = (arguments_of(true, one, label_names) for one in (certain, np.roll(certain, TRIED_ROWS, axis=0)))
    called = "it is called as function(true, predicted), with arrays of label names"
    return right, wrong, f"{TRIED_ROWS} rows of each label, all predicted right, then all wrong; {called}"


def _note(metric: str, positive: str | None, reason: str) -> str:
    """Say what the metric is, and which class is positive and why."""
    entry = METRICS.get(metric)
    if entry is not None and entry.of_positive_class:
        spoken = "F1" if metric == "f1" else metric
        return f"The metric is {spoken} of the positive class {positive!r} ({reason})."
    description = entry.description if entry else "a function of your own, maximised"
    about_positive = "" if positive is None else f"; the positive class is {positive!r} ({reason})"
    return f"The metric is {metric}: {description}{about_positive}."


def _refuse_unfit(metric: str, classes: int) -> None:
    """Refuse what is no metric, or not one of so many classes."""
    refuse_unknown(metric, METRICS, "Classification", NEGATED)
    if METRICS[metric].of_positive_class and classes != 2:
        means = [name for name in (f"macro_{metric}", f"weighted_{metric}", f"micro_{metric}") if name in METRICS]
        raise ConfigurationError(
            f"{metric!r} is that of one positive class of two, but there are {classes} classes; "
            f"choose {', '.join(means[:-1])} or {means[-1]}."
        )


def _positive(label_names: Sequence[str], train_labels: Sequence[str], positive_label: str | None) -> tuple[str, str]:
    """Return the positive class of two, and why it is that."""
    if positive_label is not None:
        if positive_label not in label_names:
            raise ConfigurationError(f"There is no label {positive_label!r}. {nearest(positive_label, label_names)}")
        return positive_label, "as asked"
    if numbers := _numbers(label_names):
        # Of 0 and 1, or -1 and 1, nobody takes the other.
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
    """Return labels by their numbers; nothing where not all are such, each another."""
    try:
        numbers = {float(name): name for name in label_names}
    except ValueError:
        return {}
    return numbers if len(numbers) == len(label_names) and all(map(math.isfinite, numbers)) else {}
