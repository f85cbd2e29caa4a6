"""Classification: one label per example, cross-entropy, class probabilities, F1 and related metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.tasks import TaskConfig
from hpo.data.labels import ordered_labels
from hpo.messages import Scores
from hpo.metrics.classification import classification_score, classification_scores, resolve_metric, slice_f1
from hpo.metrics.confusion import ClassPredictions
from hpo.metrics.metric import SelectionMetric
from hpo.tasks.protocol import Baseline, Criterion


def prior() -> Any:
    """Return a classifier that predicts the frequency of each label."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def logistic_regression(c: float) -> Any:
    """Return a logistic regression; `c` is the inverse of its L2 penalty."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """Classification: exactly one label for each example."""

    label_names: tuple[str, ...]
    """Labels by id; at least two."""
    metric: SelectionMetric
    """The metric trials are compared by."""
    class_weights: tuple[float, ...]
    """Weight of each label that makes all count alike: rows / (labels * rows of the label) in training."""
    baselines: ClassVar[Mapping[str, Baseline]] = {
        "majority class": Baseline(inputs="nothing", estimator=prior),
        "TF-IDF and logistic regression": Baseline(inputs="words", estimator=partial(logistic_regression, 10.0)),
        "frozen features and logistic regression": Baseline(
            inputs="features", estimator=partial(logistic_regression, 0.1)
        ),
    }

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task for the labels of the training rows, its metric resolved.

        Raises:
            ConfigurationError: an invalid metric or positive label.
        """
        label_names = ordered_labels(cells)
        return cls(
            label_names=label_names,
            metric=resolve_metric(config, label_names, cells),
            class_weights=_balanced(label_names, cells),
        )

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task for these labels."""
        return cls.of(TaskConfig(), learned["labels"])

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of their class numbers."""
        return {"labels": list(self.label_names)}

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model with a classification head, by transformers' `from_pretrained`."""
        names = dict(enumerate(self.label_names))
        labels = {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}
        return AutoModelForSequenceClassification.from_pretrained(source, **labels, **options)

    def targets(self, cells: Sequence[str]) -> NDArray[np.int64]:
        """Return the class number of each label, shape (rows,)."""
        number = {name: index for index, name in enumerate(self.label_names)}
        return np.array([number[label] for label in cells], dtype=np.int64)

    def strata(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class numbers."""
        return targets

    def criterion(self, values: Hyperparameters, device: torch.device) -> Criterion:
        """Return the cross-entropy of each row in nats, from logits of shape (rows, labels) and class numbers.

        `label_smoothing` moves that share of probability from the true label to all labels evenly (Szegedy et al.
        2016). `class_weights` multiplies a row by the weight of its true label. Divide the sum by the number of rows,
        not by their weights, so that batches add up to the weighted mean of all rows.
        """
        smoothing, balanced = values.label_smoothing, values.class_weights == "balanced"
        weights = torch.tensor(self.class_weights, device=device) if balanced else None

        def losses(logits: Tensor, targets: Tensor) -> Tensor:
            of_rows = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
            return of_rows if weights is None else weights[targets] * of_rows

        return losses

    def predictions(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the probability of each label; waits for the device.

        In float64: fp32 would round a label to certainty from a distance of 17 between logits on, and such rows would
        tie.

        Args:
            outputs: logits, shape (rows, labels).

        Returns:
            shape (rows, labels), each row summing to 1.
        """
        probabilities: NDArray[np.float64] = outputs.cpu().double().softmax(dim=-1).numpy()
        return probabilities

    def columns(self, predictions: NDArray[np.float64]) -> dict[str, list[str]]:
        """Return the columns to write for each row: its most probable label, and the probability of that."""
        return {
            "prediction": [self.label_names[label] for label in predictions.argmax(axis=1)],
            "probability": list(map(repr, predictions.max(axis=1).tolist())),
        }

    def baseline_predictions(self, estimator: Any, inputs: Any) -> NDArray[np.float64]:
        """Return the probabilities of a fitted estimator; 0 for a label that it was not shown, as in a fold."""
        probabilities = np.zeros((inputs.shape[0], len(self.label_names)))
        probabilities[:, estimator.classes_] = estimator.predict_proba(inputs)
        return probabilities

    def with_targets(
        self, targets: NDArray[np.int64], predictions: NDArray[np.float64], loss: float | None = None
    ) -> ClassPredictions:
        """Pair the probabilities with the true classes."""
        return ClassPredictions.of(targets, predictions, loss)

    def scores(self, predictions: ClassPredictions) -> Scores:
        """Score predictions by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return classification_scores(predictions, self.label_names, self.metric)

    def score(self, predictions: ClassPredictions) -> float:
        """Score predictions by `metric` alone; raises what `scores` does."""
        return classification_score(predictions, self.label_names, self.metric)

    def slice_score(self, predictions: ClassPredictions) -> float:
        """Return F1 of the positive class, or for more classes the mean over those that occur, true or predicted."""
        return slice_f1(predictions, self.label_names, self.metric)


def _balanced(label_names: Sequence[str], train_labels: Sequence[str]) -> tuple[float, ...]:
    """Return the weights that make each label count alike (King and Zeng 2001)."""
    counts = Counter(train_labels)
    return tuple(len(train_labels) / (len(label_names) * counts[name]) for name in label_names)
