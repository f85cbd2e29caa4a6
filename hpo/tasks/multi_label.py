"""Multi-label classification: any number of labels per example, one sigmoid each, predicted above a threshold."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.tasks import TaskConfig
from hpo.data.labels import label_matrix, labels_in, ordered_labels
from hpo.data.stratify import Strata
from hpo.messages import Scores
from hpo.metrics.confusion import Floats, Integers
from hpo.metrics.metric import SelectionMetric
from hpo.metrics.multi_label import (
    USUAL_THRESHOLD,
    LabelPredictions,
    best_thresholds,
    multi_label_score,
    multi_label_scores,
    resolve_multi_label_metric,
    scores_without,
)
from hpo.tasks.classification import logistic_regression, prior
from hpo.tasks.protocol import Baseline, Criterion


def _for_each_label(estimator: Callable[..., Any], *arguments: float) -> Any:
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(estimator(*arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabel:
    """Multi-label classification: any number of labels for each example."""

    label_names: tuple[str, ...]
    """Labels in the order of the outputs; at least one."""
    metric: SelectionMetric
    """The metric trials are compared by."""
    per_label: bool
    """True if each label has a threshold of its own."""
    positive_weights: tuple[float, ...]
    """Weight of each label: training rows without it over those with it, so that both count alike; 1 if all have it."""
    thresholds: tuple[float, ...]
    """Probability from which each label is predicted, if no thresholds were fitted."""
    separator: str = "|"
    """Separator of the labels of a row in predictions."""
    baselines: ClassVar[Mapping[str, Baseline]] = {
        "most frequent labels": Baseline(inputs="nothing", estimator=partial(_for_each_label, prior)),
        "TF-IDF and logistic regressions": Baseline(
            inputs="words", estimator=partial(_for_each_label, logistic_regression, 10.0)
        ),
        "frozen features and logistic regressions": Baseline(
            inputs="features", estimator=partial(_for_each_label, logistic_regression, 0.1)
        ),
    }

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task for the labels of the training rows, each of which occurs in some row.

        Raises:
            ConfigurationError: an invalid metric.
        """
        names = ordered_labels(label for cell in set(cells) for label in labels_in(cell))
        having = label_matrix(cells, names).sum(axis=0)
        return cls(
            label_names=names,
            metric=resolve_multi_label_metric(config.metric),
            per_label=config.thresholds == "per_label",
            positive_weights=tuple(np.where(having < len(cells), (len(cells) - having) / having, 1.0).tolist()),
            thresholds=(USUAL_THRESHOLD,) * len(names),
        )

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task for these labels and thresholds."""
        task = cls.of(TaskConfig(name="multi_label"), [json.dumps(learned["labels"])])
        return replace(task, thresholds=tuple(learned["thresholds"]), separator=learned["separator"])

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the outputs, and the threshold of each."""
        return {"labels": list(self.label_names), "thresholds": list(self.thresholds), "separator": self.separator}

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model with a head of one output per label, by transformers' `from_pretrained`."""
        labels = {"id2label": dict(enumerate(self.label_names)), "num_labels": len(self.label_names)}
        kind = "multi_label_classification"
        return AutoModelForSequenceClassification.from_pretrained(source, problem_type=kind, **labels, **options)

    def targets(self, cells: Sequence[str]) -> NDArray[np.float32]:
        """Return 1 where a row has a label and 0 elsewhere, shape (rows, labels)."""
        return label_matrix(cells, self.label_names).astype(np.float32)

    def strata(self, targets: NDArray[np.float32]) -> Strata:
        """Return the labels, as counts."""
        return targets.astype(np.int64)

    def criterion(self, values: Hyperparameters, device: torch.device) -> Criterion:
        """Return the binary cross-entropy of each row in nats, summed over labels, from logits of shape (rows, labels).

        `label_smoothing` changes the target 1 to 1 - smoothing / 2 and 0 to smoothing / 2. `class_weights` multiplies
        the losses of the labels that a row has by `positive_weights`.
        """
        smoothing, balanced = values.label_smoothing, values.class_weights == "balanced"
        weights = torch.tensor(self.positive_weights, device=device) if balanced else None

        def losses(logits: Tensor, targets: Tensor) -> Tensor:
            wanted = targets.to(logits.dtype) * (1 - smoothing) + smoothing / 2
            of_labels = nn.functional.binary_cross_entropy_with_logits(
                logits, wanted, pos_weight=weights, reduction="none"
            )
            return of_labels.sum(dim=1)

        return losses

    def predictions(self, outputs: Tensor) -> Floats:
        """Return the probability of each label, shape (rows, labels), from logits of that shape."""
        probabilities: Floats = outputs.cpu().double().sigmoid().numpy()
        return probabilities

    def columns(self, predictions: Floats) -> dict[str, list[str]]:
        """Return the columns to write for each row: its predicted labels, and the probability of each label as JSON."""
        predicted = predictions >= np.array(self.thresholds)
        names = self.label_names
        return {
            "prediction": [self._cell([names[label] for label in np.flatnonzero(row)]) for row in predicted],
            "probability": [
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in predictions.tolist()
            ],
        }

    def _cell(self, labels: list[str]) -> str:
        """Return the labels of a row as a cell that is read back as them: a JSON list if one holds the separator."""
        is_plain = not any(self.separator in label for label in labels)
        return self.separator.join(labels) if is_plain else json.dumps(labels, ensure_ascii=False)

    def baseline_predictions(self, estimator: Any, inputs: Any) -> Floats:
        """Return the probabilities of a fitted estimator."""
        probabilities: Floats = estimator.predict_proba(inputs)
        return probabilities

    def with_targets(
        self, targets: NDArray[np.float32], predictions: Floats, loss: float | None = None
    ) -> LabelPredictions:
        """Pair the probabilities with the true labels."""
        return LabelPredictions.of(targets > 0, predictions, np.array(self.thresholds), loss)

    def fit(self, predictions: LabelPredictions) -> Floats:
        """Return the thresholds that maximise F1 on these predictions, shape (labels,)."""
        return best_thresholds(predictions.true, predictions.probabilities, per_label=self.per_label)

    def with_fitted(self, predictions: LabelPredictions, fitted: Floats) -> LabelPredictions:
        """Return the predictions under fitted thresholds."""
        return replace(predictions, thresholds=fitted)

    def scores(self, predictions: LabelPredictions) -> Scores:
        """Score predictions by every metric."""
        return multi_label_scores(predictions, self.label_names, self.metric.name)

    def score(self, predictions: LabelPredictions) -> float:
        """Score predictions by `metric` alone."""
        return multi_label_score(predictions, self.metric.name)

    def scores_without(self, predictions: LabelPredictions, groups: Integers) -> Floats:
        """Score by `metric` with each group of rows left out, shape (groups,)."""
        return scores_without(predictions, groups, self.metric.name)

    def slice_score(self, predictions: LabelPredictions) -> float:
        """Return micro F1."""
        return multi_label_score(predictions, "micro_f1")
