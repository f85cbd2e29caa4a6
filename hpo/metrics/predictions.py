"""Predictions: what a model, or a baseline, says of some rows."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Answers(Protocol):
    """What is said of some rows, beside what is true of them."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def loss(self) -> float:
        """Mean loss over the rows, as it is reported."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which rows are answered rightly, shape (rows,); none where answers are only nearer or farther."""

    def turned(self, rows: NDArray[np.bool_]) -> Self:
        """Return these with right answers to some rows exchanged for wrong ones; `rows` has shape (rows,)."""

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Return those of some rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Labels and probabilities side by side."""

    true: NDArray[np.int64]
    """Class numbers, shape (rows,)."""
    probabilities: NDArray[np.float64]
    """Shape (rows, classes), each row summing to 1."""
    loss: float
    """Mean cross-entropy in nats."""

    @classmethod
    def of(cls, true: NDArray[np.int64], probabilities: NDArray[np.float64]) -> "Predictions":
        """Return these with the loss that follows from the probabilities; what is impossible costs no more than 36."""
        told = probabilities[np.arange(len(true)), true]
        return cls(true=true, probabilities=probabilities, loss=float(-np.log(np.maximum(told, SMALLEST)).mean()))

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.true)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the likeliest class, of equals the first, is the true one; shape (rows,)."""
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.true
        return right

    def turned(self, rows: NDArray[np.bool_]) -> "Predictions":
        """Return these with the two likeliest classes of some rows exchanged; `rows` has shape (rows,)."""
        probabilities, which = self.probabilities.copy(), np.flatnonzero(rows)
        order = np.argsort(-probabilities[which], axis=1, kind="stable")[:, :2]
        probabilities[which[:, None], order] = probabilities[which[:, None], order[:, ::-1]]
        return Predictions.of(self.true, probabilities)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Predictions":
        """Return those of some rows."""
        return Predictions.of(self.true[rows], self.probabilities[rows])


SMALLEST = float(np.finfo(np.float64).eps)
"""A probability below which a log says nothing more."""
