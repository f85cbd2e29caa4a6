"""One label a text: a classification head, cross-entropy, the most likely label, F1 and its kin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from hpo.config.study_file import TaskConfig
from hpo.messages import Scores
from hpo.metrics.classification import Objective, classification_scores, resolve_metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The task of giving each text (or pair of texts) one of some labels."""

    label_names: tuple[str, ...]
    """Labels by id; at least two."""
    objective: Objective
    """The metric trials are compared by."""

    @classmethod
    def of(cls, config: TaskConfig, label_names: tuple[str, ...], train_labels: Sequence[str]) -> Self:
        """Return the task for these labels, its metric resolved.

        Raises:
            ConfigurationError: a metric or positive label that cannot be.
        """
        objective = resolve_metric(config.metric, label_names, train_labels, config.positive_label)
        return cls(label_names=label_names, objective=objective)

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model under a classification head, by transformers' `from_pretrained`."""
        return AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(self.label_names),
            id2label=dict(enumerate(self.label_names)),
            label2id={name: index for index, name in enumerate(self.label_names)},
            **options,
        )

    def loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy in nats, mean over rows.

        Args:
            logits: shape (rows, labels), fp32.
            labels: label ids, shape (rows,).
            label_smoothing: mass taken from the true label and spread over all (Szegedy et al. 2016), 0 to 1.
        """
        return nn.functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    def decode(self, logits: Tensor) -> Tensor:
        """Return the most likely label id of each row, shape (rows,)."""
        return logits.argmax(dim=-1)

    def scores(self, true: NDArray[np.int64], predicted: NDArray[np.int64], loss: float) -> Scores:
        """Score predicted label ids against the true ones; `loss` is the mean cross-entropy of these rows."""
        objective = self.objective
        return classification_scores(true, predicted, self.label_names, objective.metric, objective.positive, loss=loss)
