"""Registry of metrics, by task."""

import math
from collections.abc import Mapping

from hpo.metrics import classification, multi_label, regression
from hpo.metrics.metric import Metric, refuse_unknown
from hpo.metrics.own_metric import find_function

METRICS: Mapping[str, Mapping[str, Metric]] = {
    "classification": classification.METRICS,
    "regression": regression.METRICS,
    "multi_label": multi_label.METRICS,
}
"""A score has the same limits in every task that has it."""
NEGATED: Mapping[str, Mapping[str, str]] = {
    "classification": classification.NEGATED,
    "regression": regression.NEGATED,
    "multi_label": classification.NEGATED,
}
"""Task -> metrics that would be minimised, or rank alike -> the metric that is maximised instead."""


def refuse_unknown_metric(task: str, name: str) -> None:
    """Refuse a value of `task.metric` that can be seen to be wrong before the data is read.

    Raises:
        ConfigurationError: the task has no such metric, or a function of the user's own cannot be found.
    """
    if ":" in name and task != "multi_label":
        find_function(name)
    elif name != "auto":
        refuse_unknown(name, METRICS[task], task.capitalize().replace("_", "-"), NEGATED[task])


def limits_of(metric: str) -> tuple[float, float]:
    """Return the limits of a metric; unlimited for a user-defined one."""
    known = (metrics[metric].limits for metrics in METRICS.values() if metric in metrics)
    return next(known, (-math.inf, math.inf))
