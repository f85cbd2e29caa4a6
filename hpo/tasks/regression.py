"""Regression: one number per example, mean squared error of scaled targets, predictions in the unit of the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.tasks import TaskConfig
from hpo.data.stratify import Strata, quantiles
from hpo.messages import Scores
from hpo.metrics.metric import SelectionMetric
from hpo.metrics.regression import (
    METRICS,
    NumberPredictions,
    regression_score,
    regression_scores,
    resolve_regression_metric,
)
from hpo.tasks.protocol import Baseline, Criterion


def _mean() -> Any:
    from sklearn.dummy import DummyRegressor

    return DummyRegressor(strategy="mean")


def _ridge_of_words() -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1.0)


def _ridge_of_features() -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(alphas=np.logspace(-1, 4, 11))


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """Regression: one number for each example."""

    metric: SelectionMetric
    """The metric trials are compared by."""
    mean: float
    """Mean of the training rows."""
    sd: float
    """Standard deviation of the training rows, above 0: the network is trained on (number - mean) / sd."""
    baselines: ClassVar[Mapping[str, Baseline]] = {
        "mean of training": Baseline(inputs="nothing", estimator=_mean),
        "TF-IDF and ridge regression": Baseline(inputs="words", estimator=_ridge_of_words),
        "frozen features and ridge regression": Baseline(inputs="features", estimator=_ridge_of_features),
    }

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task for the numbers of the training rows, its metric resolved.

        Raises:
            ConfigurationError: an invalid metric.
        """
        one = cls(metric=resolve_regression_metric(config.metric), mean=0.0, sd=1.0)
        return one.scaled_by(one.targets(cells))

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task with this mean and standard deviation."""
        return cls(metric=resolve_regression_metric("auto"), mean=float(learned["mean"]), sd=float(learned["sd"]))

    def learned(self) -> dict[str, Any]:
        """Return the scaling of the outputs: a number is output * sd + mean."""
        return {"mean": self.mean, "sd": self.sd}

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model with a head of one number, by transformers' `from_pretrained`."""
        return AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, problem_type="regression", **options
        )

    def targets(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """Return the numbers in the unit of the labels, shape (rows,)."""
        return np.array(cells, dtype=np.float64)

    def scaled_by(self, targets: NDArray[np.float64]) -> Self:
        """Return the task for training rows with these numbers."""
        return replace(self, mean=float(targets.mean()), sd=float(targets.std()) or 1.0)

    def strata(self, targets: NDArray[np.float64]) -> Strata:
        """Return the quantile of each row."""
        return quantiles(targets)

    def criterion(self, values: Hyperparameters, device: torch.device) -> Criterion:  # noqa: ARG002
        """Return the squared error of each row in standard deviations, from outputs of shape (rows, 1)."""

        def losses(outputs: Tensor, targets: Tensor) -> Tensor:
            scaled = ((targets - self.mean) / self.sd).to(outputs.dtype)
            return nn.functional.mse_loss(outputs.squeeze(1), scaled, reduction="none")

        return losses

    def predictions(self, outputs: Tensor) -> NDArray[np.float64]:
        """Return numbers in the unit of the labels, shape (rows,), from outputs of shape (rows, 1)."""
        outputs = outputs.squeeze(1).cpu().double()
        return (outputs * self.sd + self.mean).numpy()

    def columns(self, predictions: NDArray[np.float64]) -> dict[str, list[str]]:
        """Return the column to write for each row: its number."""
        return {"prediction": list(map(repr, predictions.tolist()))}

    def baseline_predictions(self, estimator: Any, inputs: Any) -> NDArray[np.float64]:
        """Return the numbers of a fitted estimator."""
        predictions: NDArray[np.float64] = estimator.predict(inputs)
        return predictions

    def with_targets(
        self,
        targets: NDArray[np.float64],
        predictions: NDArray[np.float64],
        loss: float | None = None,  # noqa: ARG002
    ) -> NumberPredictions:
        """Pair the predicted numbers with the true ones; the loss is computed from these."""
        return NumberPredictions(true=targets, predicted=predictions, sd=self.sd)

    def scores(self, predictions: NumberPredictions) -> Scores:
        """Score predictions by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return regression_scores(predictions, self.metric)

    def score(self, predictions: NumberPredictions) -> float:
        """Score predictions by `metric` alone; raises what `scores` does."""
        return regression_score(predictions, self.metric)

    def slice_score(self, predictions: NumberPredictions) -> float:
        """Return minus the root of the mean squared error, because a correlation within a slice ignores an offset."""
        return float(METRICS["neg_rmse"].compute(predictions))
