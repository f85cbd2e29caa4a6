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
"""A score of one name has the same limits in all tasks."""


def limits_of(metric: str) -> tuple[float, float]:
    """Return between which a metric is; of a user's own nothing is known."""
    known = (metrics[metric].limits for metrics in METRICS.values() if metric in metrics)
    return next(known, (-math.inf, math.inf))
