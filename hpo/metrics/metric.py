"""Metrics: what a metric is in any task, the one that a study maximises, and the predictions that are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ConfigurationError, nearest
from hpo.messages import Scores
from hpo.metrics.own_metric import OwnMetric


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A score; more is better."""

    description: str
    source: str
    compute: Callable[[Any], float]
    """From what its task counts once for all metrics."""
    of_positive_class: bool = False
    """Whether it is that of the positive class of two, and there is none for more classes."""
    of_rows: bool = False
    """Whether all rows count alike in it, so that a class of few rows counts little."""
    limits: tuple[float, float] = (0.0, 1.0)
    """The smallest and the largest value that it can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionMetric:
    """The metric that a study maximises, by which trials are compared."""

    name: str
    """One of its task's metrics, or `module:function`."""
    note: str
    """A sentence for the user: what it is and why."""
    positive: str | None = None
    """The positive class of two; None where there are more, or none."""
    beta: float = 1.0
    """How many times as much as precision recall counts in `fbeta` and its kin."""
    own: OwnMetric | None = None
    """The user's function, where `name` is that of one."""


def refuse_unknown(name: str, metrics: Mapping[str, Metric], task: str, negated: Mapping[str, str]) -> None:
    """Raise a `ConfigurationError` where no metric of the task is called `name`.

    Args:
        name: what `task.metric` says.
        metrics: those of the task.
        task: what a sentence calls the task.
        negated: what one would minimise, or is ordered alike -> the metric that is maximised instead.
    """
    if name in negated:
        raise ConfigurationError(f"task.metric is {name!r}, but a metric is maximised; choose {negated[name]}.")
    if name not in metrics:
        raise ConfigurationError(f"{task} has no metric {name!r}. {nearest(name, ['auto', *metrics])}")


class Predictions(Protocol):
    """Predictions for some rows, beside their true targets."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def loss(self) -> float:
        """Mean loss over the rows, as it is reported."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which rows are predicted correctly, shape (rows,); none where predictions are only nearer or farther."""

    def flipped(self, rows: NDArray[np.bool_]) -> Self:
        """Return these with correct predictions for some rows made wrong; `rows` has shape (rows,)."""

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return those of some rows."""


def mean_scores(parts: Sequence[Scores]) -> Scores:
    """Return the mean of each score over folds, each fold counted alike; rows and confusions are added up."""
    per_class = {label: _mean([part.per_class[label] for part in parts]) for label in parts[0].per_class}
    for label, row in per_class.items():
        row["support"] = sum(part.per_class[label]["support"] for part in parts)
    confusion = np.sum([part.confusion for part in parts], axis=0)
    return Scores(
        metric=parts[0].metric,
        values=_mean([part.values for part in parts]),
        rows=sum(part.rows for part in parts),
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
