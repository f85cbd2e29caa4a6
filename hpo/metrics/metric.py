"""Metric: a score of any task; and the objective, that which a study maximises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpo.metrics.own_metric import OwnMetric


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score; more is better."""

    description: str
    source: str
    of: Callable[[Any], float]
    """Its value, from what its task counts or computes once for all metrics."""
    of_positive_class: bool = False
    """Whether it is that of the positive class of two, and there is none for more classes."""
    of_rows: bool = False
    """Whether all rows count alike in it, so that a class of few rows counts little."""
    limits: tuple[float, float] = (0.0, 1.0)
    """Between which it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The score that a study maximises."""

    metric: str
    """One of its task's metrics, or `module:function`."""
    note: str
    """A sentence for the user: what it is and why."""
    positive: str | None = None
    """The positive class of two; None where there are more, or none."""
    own: OwnMetric | None = None
    """The user's function, where `metric` names one."""
