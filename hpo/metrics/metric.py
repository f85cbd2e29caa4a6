"""Metrics: their common interface, the metric that a study maximises, and the predictions that are scored."""

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
    """A score; higher is better."""

    description: str
    source: str
    compute: Callable[[Any], float]
    """Function from the task's counts to the score."""
    of_positive_class: bool = False
    """True if it is the score of the positive class of two, and undefined for more classes."""
    of_rows: bool = False
    """True if all rows count alike, so that a class with few rows counts little."""
    limits: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest possible value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionMetric:
    """The metric that a study maximises, by which trials are compared."""

    name: str
    """One of its task's metrics, or `module:function`."""
    note: str
    """A sentence for the user: the metric and the reason for it."""
    positive: str | None = None
    """The positive class of two; None if there are more, or none."""
    beta: float = 1.0
    """Weight of recall relative to precision in `fbeta` and its averages."""
    own: OwnMetric | None = None
    """The user's function, if `name` names one."""


def refuse_unknown(name: str, metrics: Mapping[str, Metric], task: str, negated: Mapping[str, str]) -> None:
    """Raise a `ConfigurationError` if the task has no metric called `name`.

    Args:
        name: value of `task.metric`.
        metrics: those of the task.
        task: name of the task in a sentence.
        negated: metrics that would be minimised, or rank alike -> the metric that is maximised instead.
    """
    if negated.get(name) in metrics:
        raise ConfigurationError(f"task.metric is {name!r}, but a metric is maximised; choose {negated[name]}.")
    if name not in metrics:
        raise ConfigurationError(f"{task} has no metric {name!r}. {nearest(name, ['auto', *metrics])}")


class Predictions(Protocol):
    """Predictions for some rows, with their true targets."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def loss(self) -> float:
        """Mean loss over the rows, as reported."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """True for rows that are predicted correctly, shape (rows,); none for a task without correct predictions."""

    def flipped(self, rows: NDArray[np.bool_]) -> Self:
        """Return the predictions with correct ones of some rows made wrong; `rows` has shape (rows,)."""

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return the predictions of some rows."""


def mean_scores(parts: Sequence[Scores]) -> Scores:
    """Return the mean of each score over folds, with equal weights; rows and confusion matrices are added up."""
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
