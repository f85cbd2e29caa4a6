"""Task protocol: what training, evaluation and baselines ask of a task, and nothing else of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import TaskConfig
from hpo.data.targets import Strata
from hpo.messages import Scores
from hpo.metrics.metric import Objective
from hpo.metrics.predictions import Answers

A = TypeVar("A", bound=Answers)

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From the network's outputs of some rows, fp32, and their targets to the loss of each row, summed over what is learned
of it; shape (rows,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A scikit-learn estimator that is fitted to the training rows, and what it sees of a row."""

    inputs: Literal["nothing", "words", "features"]
    """Nothing of it; TF-IDF of its words and pairs of words; the pretrained model's mean last layer."""
    estimator: Callable[[], Any]
    """Makes it; imports it, so that nobody else waits for that."""


class Task(Protocol[A]):
    """What is learned of each row. Rows are in the order of what they were asked for."""

    baselines: ClassVar[Mapping[str, Baseline]]
    """What is scored without fine-tuning, by name."""

    @property
    def objective(self) -> Objective:
        """The metric that trials are compared by."""

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task of a study whose training rows have these cells in their label column.

        Raises:
            ConfigurationError: a metric or a setting that cannot be of this task or these targets.
        """

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task of which `learned` was asked, for predictions alone."""

    def learned(self) -> dict[str, Any]:
        """Return what predictions follow from beside the weights, as JSON has it; a trained model keeps it."""

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model under the task's head, by transformers' `from_pretrained`."""

    def head(self, network: Any) -> set[str]:
        """Name the parameters that are drawn anew for each trial; none where the network does not tell."""

    def targets(self, cells: Sequence[str]) -> NDArray[Any]:
        """Return what rows are trained towards, shape (rows, ...), from the cells of the label column."""

    def strata(self, targets: NDArray[Any]) -> Strata:
        """Return what parts of rows with these targets have their share of."""

    def criterion(self, values: Hyperparameters | None, device: torch.device) -> Criterion:
        """Return the loss that a trial trains by under `values`; for None the one that is reported."""

    def predictions(self, outputs: Tensor) -> NDArray[Any]:
        """Return what the outputs say of each row, in float64, shape (rows, ...); waits for the device."""

    def columns(self, predictions: NDArray[Any]) -> Mapping[str, Sequence[str]]:
        """Return what is written of each row beside those of its file, by column: `prediction`, and `probability`."""

    def said(self, estimator: Any, inputs: Any) -> NDArray[Any]:
        """Return what the fitted estimator of a baseline says of each row, as `predictions` does."""

    def answers(self, targets: NDArray[Any], predictions: NDArray[Any], loss: float | None = None) -> A:
        """Put predictions beside targets; `loss` is the mean over rows, None to compute it from these two."""

    def scores(self, answers: A) -> Scores:
        """Score answers by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """

    def objective_on(self, answers: A) -> float:
        """Score answers by the objective alone; raises what `scores` does."""

    def slice_score(self, answers: A) -> float:
        """Score a part of the rows that have something in common, by a metric that means something on each."""


@runtime_checkable
class Fits(Protocol[A]):
    """A task that fits something to rows once the model is trained, such as thresholds, and never to those that it is
    judged by."""

    def fit(self, answers: A) -> NDArray[np.float64]:
        """Return what is fitted to these answers; it is kept with the weights."""

    def decided(self, answers: A, fitted: NDArray[np.float64]) -> A:
        """Return answers as they are under what was fitted."""


@runtime_checkable
class Scales(Protocol):
    """A task whose network learns targets that are scaled by those of the training rows."""

    def scaled_by(self, targets: NDArray[Any]) -> Any:
        """Return the task of training rows with these targets: of a fold its own, without those that it leaves out."""


@runtime_checkable
class LeavesOut(Protocol):
    """A task whose objective follows from counts, so that a jackknife is sums."""

    def left_out(self, answers: Any, groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score by the objective with each group of rows left out; `groups` has shape (rows,), the scores (groups,)."""
