"""One label a text: a classification head, cross-entropy, the probabilities of the labels, F1 and its kin."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from hpo.config.study_file import TaskConfig
from hpo.messages import Scores
from hpo.metrics.classification import Objective, classification_scores, f1_among, objective_score
from hpo.metrics.objective import resolve_metric
from hpo.metrics.predictions import Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The task of giving each text (or pair of texts) one of some labels."""

    label_names: tuple[str, ...]
    """Labels by id; at least two."""
    objective: Objective
    """The metric trials are compared by."""
    beta: float
    """How many times as much as precision recall counts in `fbeta` and its kin."""
    class_weights: tuple[float, ...]
    """What each label weighs where the labels are to count alike: rows / (labels * rows of the label) in training."""

    @classmethod
    def of(cls, config: TaskConfig, label_names: tuple[str, ...], train_labels: Sequence[str]) -> Self:
        """Return the task for these labels, each of which stands in training, its metric resolved.

        Raises:
            ConfigurationError: a metric or positive label that cannot be.
        """
        return cls(
            label_names=label_names,
            objective=resolve_metric(config.metric, label_names, train_labels, config.positive_label),
            beta=config.beta,
            class_weights=_balanced(label_names, train_labels),
        )

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model under a classification head, by transformers' `from_pretrained`."""
        return AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=len(self.label_names),
            id2label=dict(enumerate(self.label_names)),
            label2id={name: index for index, name in enumerate(self.label_names)},
            **options,
        )

    def head(self, network: Any) -> set[str]:
        """Name the parameters that are drawn anew for each trial: all outside the pretrained model.

        None of a class that does not say which of its parts that is, such as one of remote code.
        """
        prefix = f"{network.base_model_prefix}."
        outside = {name for name, _ in network.named_parameters() if not name.startswith(prefix)}
        return set() if network.base_model is network else outside

    def losses(
        self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy of each row in nats, shape (rows,).

        Args:
            logits: shape (rows, labels), fp32.
            targets: label ids, shape (rows,).
            label_smoothing: mass taken from the true label and spread over all (Szegedy et al. 2016), 0 to 1.
            weights: what the rows of each true label are multiplied by, shape (labels,); None for 1. Their sum is to be
                divided by the rows, not by their weights, so that batches add up to the weighted mean of all rows.
        """
        losses = nn.functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
        return losses if weights is None else weights[targets] * losses

    def probabilities(self, logits: Tensor) -> NDArray[np.float64]:
        """Return the probability of each label; waits for the device.

        In float64: in fp32 a label is certain from a distance of 17 in the logits on, and rows so scored have no order.

        Args:
            logits: shape (rows, labels).

        Returns:
            shape (rows, labels), each row summing to 1.
        """
        probabilities: NDArray[np.float64] = logits.cpu().double().softmax(dim=-1).numpy()
        return probabilities

    def columns(self, logits: Tensor) -> dict[str, list[str]]:
        """Return what is written beside each row: its likeliest label, and how probable that is."""
        probabilities = self.probabilities(logits)
        return {
            "prediction": [self.label_names[label] for label in probabilities.argmax(axis=1)],
            "probability": list(map(repr, probabilities.max(axis=1).tolist())),
        }

    def scores(self, predictions: Predictions) -> Scores:
        """Score what was said of some rows, by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return classification_scores(
            predictions, label_names=self.label_names, objective=self.objective, beta=self.beta
        )

    def objective_on(self, predictions: Predictions) -> float:
        """Score what was said of some rows by the objective alone.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return objective_score(predictions, label_names=self.label_names, objective=self.objective, beta=self.beta)

    def f1_among(self, predictions: Predictions) -> float:
        """Return F1 of the positive class, or of more the mean over those that are there, true or predicted."""
        return f1_among(predictions, label_names=self.label_names, objective=self.objective)


def _balanced(label_names: Sequence[str], train_labels: Sequence[str]) -> tuple[float, ...]:
    """Return the weights by which each label counts alike (King and Zeng 2001)."""
    counts = Counter(train_labels)
    return tuple(len(train_labels) / (len(label_names) * counts[name]) for name in label_names)
