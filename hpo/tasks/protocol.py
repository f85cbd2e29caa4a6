"""Task protocol: what training and evaluation ask of a task and of its head, and nothing else of them."""

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
    """How a task asks a network that was loaded for it."""

    @property
    def prompt(self) -> Prompt | None:
        """What stands around the texts of each row; None for the tokenizer's special tokens alone."""

    def refuse_length(self, max_length: int) -> None:
        """Raise a `ModelError` where rows of `max_length` tokens cannot be asked."""

    def outputs(self, network: Any, inputs: Mapping[str, Tensor], lengths: NDArray[np.int64]) -> Tensor:
        """Return what the task's criterion and predictions take of each row, shape (rows, ...).

        Args:
            network: the transformers model, as the task loaded it.
            inputs: what it is called with, on its device, each of shape (rows, length).
            lengths: tokens of each row, padding left out; shape (rows,).
        """

    def learned(self) -> dict[str, Any]:
        """Return what of it predictions follow from, beside what the task itself has; as JSON has it."""

    def note(self, ids: Sequence[int], tokenizer: Any) -> str:
        """Return in a sentence how a row of these tokens is asked; nothing where there is nothing to say."""


@runtime_checkable
class HasHead(Protocol):
    """A task that asks a network through the head that it was pretrained with, so that no weight is drawn anew."""

    def head_for(self, network: Any, tokenizer: Any) -> Head:
        """Return the head for a network that this task loaded, in evaluation mode, and its tokenizer.

        Raises:
            ConfigurationError: the study asks for what this tokenizer cannot write.
            ModelError: the network cannot be asked so.
        """


@dataclass(frozen=True, slots=True)
class ClassifierHead:
    """A head over the pretrained model that each trial draws anew; it is the last layer of the network itself."""

    prompt: None = None

    def refuse_length(self, max_length: int) -> None:
        """Refuse none."""

    def outputs(self, network: Any, inputs: Mapping[str, Tensor], lengths: NDArray[np.int64]) -> Tensor:  # noqa: ARG002
        """Return the network's answer, shape (rows, labels)."""
        answer: Tensor = network(**inputs).logits
        return answer

    def learned(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def note(self, ids: Sequence[int], tokenizer: Any) -> str:  # noqa: ARG002
        """Say nothing."""
        return ""


P = TypeVar("P", bound=Predictions)

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From the network's outputs of some rows, fp32, and their targets to the loss of each row, summed over what is learned
of it; shape (rows,)."""


MOST_TRAIN_ROWS = 20_000
"""Rows that a baseline is trained on, a stratified part where there are more: it is to take minutes at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """A scikit-learn estimator that is fitted to the training rows, and what it sees of a row."""

    inputs: Literal["nothing", "words", "features", "answers"]
    """Nothing of it; TF-IDF of its words and pairs of words; the pretrained model's mean last layer, or what it
    predicts before any training."""
    estimator: Callable[[], Any]
    """Makes it; imports it, so that nobody else waits for that."""
    train_rows: int = MOST_TRAIN_ROWS
    """Most rows that it is fitted to."""


class Task(Protocol[P]):
    """What is learned of each example. Rows are in the order of what they were asked for."""

    baselines: ClassVar[Mapping[str, Baseline]]
    """What is scored without fine-tuning, by name."""

    @property
    def metric(self) -> SelectionMetric:
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

    def targets(self, cells: Sequence[str]) -> NDArray[Any]:
        """Return what rows are trained towards, shape (rows, ...), from the cells of the label column."""

    def strata(self, targets: NDArray[Any]) -> Strata:
        """Return what parts of rows with these targets have their share of."""

    def criterion(self, values: Hyperparameters, device: torch.device) -> Criterion:
        """Return the loss that a trial trains by under `values`; the one that is reported is that of the defaults."""

    def predictions(self, outputs: Tensor) -> NDArray[Any]:
        """Return what the outputs predict for each row, in float64, shape (rows, ...); waits for the device."""

    def columns(self, predictions: NDArray[Any]) -> Mapping[str, Sequence[str]]:
        """Return what is written of each row beside those of its file, by column: `prediction`, and `probability`."""

    def baseline_predictions(self, estimator: Any, inputs: Any) -> NDArray[Any]:
        """Return what the fitted estimator of a baseline predicts for each row, as `predictions` does."""

    def with_targets(self, targets: NDArray[Any], predictions: NDArray[Any], loss: float | None = None) -> P:
        """Put predictions beside targets; `loss` is the mean over rows, None to compute it from these two."""

    def scores(self, predictions: P) -> Scores:
        """Score predictions by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """

    def score(self, predictions: P) -> float:
        """Score predictions by `metric` alone; raises what `scores` does."""

    def slice_score(self, predictions: P) -> float:
        """Score a part of the rows that have something in common, by a metric that means something on each."""


@runtime_checkable
class Fits(Protocol[P]):
    """A task that fits something to rows once the model is trained, such as thresholds, and never to those that it is
    judged by."""

    def fit(self, predictions: P) -> NDArray[np.float64]:
        """Return what is fitted to these predictions; it is kept with the weights."""

    def with_fitted(self, predictions: P, fitted: NDArray[np.float64]) -> P:
        """Return predictions as they are under what was fitted."""


@runtime_checkable
class Scales(Protocol):
    """A task whose network learns targets that are scaled by those of the training rows."""

    def scaled_by(self, targets: NDArray[Any]) -> Any:
        """Return the task of training rows with these targets: of a fold its own, without those that it leaves out."""


@runtime_checkable
class FastJackknife(Protocol):
    """A task whose metric follows from counts, so that a jackknife is sums."""

    def scores_without(self, predictions: Any, groups: NDArray[np.int64]) -> NDArray[np.float64]:
        """Score by `metric` with each group of rows left out; `groups` has shape (rows,), the scores (groups,)."""
