"""Task protocol: the interface of a task and of its head for training and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.tasks import TaskConfig
from hpo.data.stratify import Strata
from hpo.data.tokenization import Prompt
from hpo.messages import Scores
from hpo.metrics.metric import Predictions, SelectionMetric


class Head(Protocol):
    """Head: how a task gets outputs from a network that it loaded."""

    @property
    def prompt(self) -> Prompt | None:
        """Tokens around the texts of each row; None for the tokenizer's special tokens only."""

    def refuse_length(self, max_length: int) -> None:
        """Raise a `ModelError` if the network cannot process rows of `max_length` tokens for this head."""

    def outputs(self, network: Any, inputs: Mapping[str, Tensor], lengths: NDArray[np.int64]) -> Tensor:
        """Return the outputs for the task's criterion and predictions, shape (rows, ...).

        Args:
            network: the transformers model, as the task loaded it.
            inputs: arguments of the network, on its device, each of shape (rows, length).
            lengths: tokens of each row, without padding; shape (rows,).
        """

    def learned(self) -> dict[str, Any]:
        """Return the head's part of what predictions depend on, besides the task's own, as JSON values."""

    def note(self, ids: Sequence[int], tokenizer: Any) -> str:
        """Return a sentence on how the model reads a row of these tokens; empty if there is nothing to report."""


@runtime_checkable
class HasHead(Protocol):
    """A task with the head that the model was pretrained with, so that no weight is newly initialised."""

    def head_for(self, network: Any, tokenizer: Any) -> Head:
        """Return the head for a network that this task loaded, in evaluation mode, and its tokenizer.

        Raises:
            ConfigurationError: the tokenizer cannot represent the study's prompt or words.
            ModelError: the network does not support this head.
        """


@dataclass(frozen=True, slots=True)
class ClassifierHead:
    """A head that each trial initialises anew; it is the last layer of the network itself."""

    prompt: None = None

    def refuse_length(self, max_length: int) -> None:
        """Accept every length."""

    def outputs(self, network: Any, inputs: Mapping[str, Tensor], lengths: NDArray[np.int64]) -> Tensor:  # noqa: ARG002
        """Return the network's output, shape (rows, labels)."""
        answer: Tensor = network(**inputs).logits
        return answer

    def learned(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def note(self, ids: Sequence[int], tokenizer: Any) -> str:  # noqa: ARG002
        """Return nothing."""
        return ""


P = TypeVar("P", bound=Predictions)

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Function from the network's fp32 outputs for some rows, and their targets, to the loss of each row, summed over its
units; shape (rows,)."""


MOST_TRAIN_ROWS = 20_000
"""Rows that a baseline is trained on (a stratified sample if there are more), so that it takes minutes at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A scikit-learn estimator that is fitted to features of the training rows."""

    inputs: Literal["nothing", "words", "features", "answers"]
    """Features: none; TF-IDF of words and pairs of words; the pretrained model's mean last layer; or its predictions
    before any training."""
    estimator: Callable[[], Any]
    """Builds the estimator; imports scikit-learn itself, so that no other process waits for that."""
    train_rows: int = MOST_TRAIN_ROWS
    """Largest number of rows that it is fitted to."""


class Task(Protocol[P]):
    """A task: targets, loss, predictions and scores. Results have the order of the rows passed in."""

    baselines: ClassVar[Mapping[str, Baseline]]
    """Baselines without fine-tuning, by name."""

    @property
    def metric(self) -> SelectionMetric:
        """The metric that trials are compared by."""

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task of a study whose training rows have these cells in their label column.

        Raises:
            ConfigurationError: a metric or a setting that is invalid for this task or these targets.
        """

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task from the result of `learned`, for predictions only."""

    def learned(self) -> dict[str, Any]:
        """Return what predictions depend on besides the weights, as JSON values stored with a trained model."""

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model with the task's head, by transformers' `from_pretrained`."""

    def targets(self, cells: Sequence[str]) -> NDArray[Any]:
        """Return the training targets, shape (rows, ...), from the cells of the label column."""

    def strata(self, targets: NDArray[Any]) -> Strata:
        """Return the strata of rows with these targets, of which every part of the rows gets its share."""

    def criterion(self, values: Hyperparameters, device: torch.device) -> Criterion:
        """Return the loss that a trial minimises under `values`; the reported loss is that of the defaults."""

    def predictions(self, outputs: Tensor) -> NDArray[Any]:
        """Return the prediction for each row, in float64, shape (rows, ...); waits for the device."""

    def columns(self, predictions: NDArray[Any]) -> Mapping[str, Sequence[str]]:
        """Return the columns that are added to the rows of a file: `prediction`, and `probability`."""

    def baseline_predictions(self, estimator: Any, inputs: Any) -> NDArray[Any]:
        """Return the predictions of a baseline's fitted estimator, in the form of `predictions`."""

    def with_targets(self, targets: NDArray[Any], predictions: NDArray[Any], loss: float | None = None) -> P:
        """Pair predictions with targets; `loss` is the mean over rows, None to compute it from these two."""

    def scores(self, predictions: P) -> Scores:
        """Score predictions by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """

    def score(self, predictions: P) -> float:
        """Score predictions by `metric` alone; raises what `scores` does."""

    def slice_score(self, predictions: P) -> float:
        """Score a slice of the rows, by a metric that is meaningful on each."""


@runtime_checkable
class Fits(Protocol[P]):
    """A task that fits something, such as thresholds, to rows after training, never to those that judge it."""

    def fit(self, predictions: P) -> NDArray[np.float64]:
        """Return what is fitted to these predictions; it is stored with the weights."""

    def with_fitted(self, predictions: P, fitted: NDArray[np.float64]) -> P:
        """Return the predictions under the fitted values."""


@runtime_checkable
class Scales(Protocol):
    """A task whose targets are scaled by those of the training rows."""

    def scaled_by(self, targets: NDArray[Any]) -> Any:
        """Return the task for training rows with these targets; with folds, each fold has its own."""


@runtime_checkable
class FastJackknife(Protocol):
    """A task whose metric is computed from counts, so that a jackknife only sums them."""

    def scores_without(self, predictions: Any, groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score by `metric` with each group of rows left out; `groups` has shape (rows,), the scores (groups,)."""
