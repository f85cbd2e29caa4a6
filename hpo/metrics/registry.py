"""Registry of metrics, by task."""

import math
from collections.abc import Mapping

from hpo.metrics import classification, multi_label, regression
from hpo.metrics.metric import Metric

METRICS: Mapping[str, Mapping[str, Metric]] = {
    "classification": classification.METRICS,
    "regression": regression.METRICS,
    "multi_label": multi_label.METRICS,
}
"""A score has the same limits in every task that has it."""


def limits_of(metric: str) -> tuple[float, float]:
    """Return the limits of a metric; unlimited for a user-defined one."""
    known = (metrics[metric].limits for metrics in METRICS.values() if metric in metrics)
    return next(known, (-math.inf, math.inf))
