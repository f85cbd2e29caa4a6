"""Heads: what a network is given of each row, and what is read of its answer; a new classifier, or its own head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpo.data.tokenization import Prompt


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
