"""Classification: one label a text, cross-entropy, the probabilities of the labels, F1 and its kin."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import TaskConfig
from hpo.data.checks import ordered_labels
from hpo.data.splits import label_numbers
from hpo.messages import Scores
from hpo.metrics.classification import classification_scores, f1_among, objective_score
from hpo.metrics.metric import Objective
from hpo.metrics.predictions import Predictions
from hpo.metrics.selection import resolve_metric
from hpo.tasks.heads import head_of, load_with_head
from hpo.tasks.protocol import Baseline, Criterion

MOST_ITERATIONS = 1000


def _prior() -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def _logistic_regression(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=MOST_ITERATIONS)


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
    baselines: ClassVar[Mapping[str, Baseline]] = {
        "majority class": Baseline(inputs="nothing", estimator=_prior),
        "TF-IDF and logistic regression": Baseline(inputs="words", estimator=partial(_logistic_regression, 10.0)),
        "frozen features and logistic regression": Baseline(
            inputs="features", estimator=partial(_logistic_regression, 0.1)
        ),
    }

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task for the labels of the training rows, its metric resolved.

        Raises:
            ConfigurationError: a metric or positive label that cannot be.
        """
        label_names = ordered_labels(cells)
        return cls(
            label_names=label_names,
            objective=resolve_metric(config.metric, label_names, cells, config.positive_label),
            beta=config.beta,
            class_weights=_balanced(label_names, cells),
        )

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task for these labels."""
        return cls.of(TaskConfig(), learned["labels"])

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of their numbers."""
        return {"labels": list(self.label_names)}

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model under a classification head, by transformers' `from_pretrained`."""
        return load_with_head(
            source,
            num_labels=len(self.label_names),
            id2label=dict(enumerate(self.label_names)),
            label2id={name: index for index, name in enumerate(self.label_names)},
            **options,
        )

    def head(self, network: Any) -> set[str]:
        """Name the parameters that are drawn anew for each trial: all outside the pretrained model."""
        return head_of(network)

    def targets(self, cells: Sequence[str]) -> NDArray[np.int64]:
        """Return the class number of each label, shape (rows,)."""
        return label_numbers(cells, self.label_names)

    def strata(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the classes."""
        return targets

    def criterion(self, values: Hyperparameters | None, device: torch.device) -> Criterion:
        """Return the cross-entropy of each row in nats, from logits of shape (rows, labels) and class numbers.

        With `label_smoothing` that mass is taken from the true label and spread over all (Szegedy et al. 2016). With
        `class_weights` a row is multiplied by the weight of its true label. The sum of these is to be divided by the
        rows, not by their weights, so that batches add up to the weighted mean of all rows.
        """
        smoothing = values.label_smoothing if values else 0.0
        balanced = values is not None and values.class_weights == "balanced"
        weights = torch.tensor(self.class_weights, device=device) if balanced else None

        def losses(logits: Tensor, targets: Tensor) -> Tensor:
            of_rows = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
            return of_rows if weights is None else weights[targets] * of_rows

        return losses

    def predictions(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return the probability of each label; waits for the device.

        In float64: in fp32 a label is certain from a distance of 17 in the logits on, and rows so scored have no order.

        Args:
            outputs: logits, shape (rows, labels).

        Returns:
            shape (rows, labels), each row summing to 1.
        """
        probabilities: NDArray[np.float64] = outputs.cpu().double().softmax(dim=-1).numpy()
        return probabilities

    def columns(self, predictions: NDArray[np.float64]) -> dict[str, list[str]]:
        """Return what is written beside each row: its likeliest label, and how probable that is."""
        return {
            "prediction": [self.label_names[label] for label in predictions.argmax(axis=1)],
            "probability": list(map(repr, predictions.max(axis=1).tolist())),
        }

    def said(self, estimator: Any, inputs: Any) -> NDArray[np.float64]:
        """Return the probabilities of a fitted estimator; of a label that it was not shown, as in a fold, 0."""
        said = np.zeros((inputs.shape[0], len(self.label_names)))
        said[:, estimator.classes_] = estimator.predict_proba(inputs)
        return said

    def answers(
        self, targets: NDArray[np.int64], predictions: NDArray[np.float64], loss: float | None = None
    ) -> Predictions:
        """Put the probabilities beside the true classes."""
        if loss is None:
            return Predictions.of(targets, predictions)
        return Predictions(true=targets, probabilities=predictions, loss=loss)

    def scores(self, answers: Predictions) -> Scores:
        """Score what was said of some rows, by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return classification_scores(answers, label_names=self.label_names, objective=self.objective, beta=self.beta)

    def objective_on(self, answers: Predictions) -> float:
        """Score what was said of some rows by the objective alone.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return objective_score(answers, label_names=self.label_names, objective=self.objective, beta=self.beta)

    def slice_score(self, answers: Predictions) -> float:
        """Return F1 of the positive class, or of more the mean over those that are there, true or predicted."""
        return f1_among(answers, label_names=self.label_names, objective=self.objective)


def _balanced(label_names: Sequence[str], train_labels: Sequence[str]) -> tuple[float, ...]:
    """Return the weights by which each label counts alike (King and Zeng 2001)."""
    counts = Counter(train_labels)
    return tuple(len(train_labels) / (len(label_names) * counts[name]) for name in label_names)
