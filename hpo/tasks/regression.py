"""Regression: one number a text, mean squared error of scaled targets, predictions in the unit of the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import TaskConfig
from hpo.data.targets import Strata, quantiles
from hpo.messages import Scores
from hpo.metrics.metric import Objective
from hpo.metrics.regression import METRICS, Numbers, regression_score, regression_scores, resolve_regression_metric
from hpo.tasks.heads import head_of, load_with_head
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
    """The task of giving each text (or pair of texts) a number."""

    objective: Objective
    """The metric trials are compared by."""
    mean: float
    """Of the training rows."""
    sd: float
    """Their standard deviation, above 0: outputs are trained towards (number - mean) / sd."""
    baselines: ClassVar[Mapping[str, Baseline]] = {
        "mean of training": Baseline(inputs="nothing", estimator=_mean),
        "TF-IDF and ridge regression": Baseline(inputs="words", estimator=_ridge_of_words),
        "frozen features and ridge regression": Baseline(inputs="features", estimator=_ridge_of_features),
    }

    @classmethod
    def of(cls, config: TaskConfig, cells: Sequence[str]) -> Self:
        """Return the task for the numbers of the training rows, its metric resolved.

        Raises:
            ConfigurationError: a metric that cannot be.
        """
        one = cls(objective=resolve_regression_metric(config.metric), mean=0.0, sd=1.0)
        return one.scaled_by(one.targets(cells))

    @classmethod
    def restored(cls, learned: Mapping[str, Any]) -> Self:
        """Return the task of these mean and standard deviation."""
        return cls(objective=resolve_regression_metric("auto"), mean=learned["mean"], sd=learned["sd"])

    def learned(self) -> dict[str, Any]:
        """Return what outputs are scaled by: a number is output * sd + mean."""
        return {"mean": self.mean, "sd": self.sd}

    def load(self, source: str, **options: Any) -> Any:
        """Load the pretrained model under a head of one number, by transformers' `from_pretrained`."""
        return load_with_head(source, num_labels=1, problem_type="regression", **options)

    def head(self, network: Any) -> set[str]:
        """Name the parameters that are drawn anew for each trial: all outside the pretrained model."""
        return head_of(network)

    def targets(self, cells: Sequence[str]) -> NDArray[np.float64]:
        """Return the numbers in the unit of the labels, shape (rows,)."""
        return np.array(cells, dtype=np.float64)

    def scaled_by(self, targets: NDArray[np.float64]) -> Self:
        """Return the task of training rows with these numbers."""
        return replace(self, mean=float(targets.mean()), sd=float(targets.std()) or 1.0)

    def strata(self, targets: NDArray[np.float64]) -> Strata:
        """Return the quantile that each row is in."""
        return quantiles(targets)

    def criterion(self, values: Hyperparameters | None, device: torch.device) -> Criterion:  # noqa: ARG002
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
        """Return what is written beside each row: its number."""
        return {"prediction": list(map(repr, predictions.tolist()))}

    def said(self, estimator: Any, inputs: Any) -> NDArray[np.float64]:
        """Return the numbers of a fitted estimator."""
        said: NDArray[np.float64] = estimator.predict(inputs)
        return said

    def answers(
        self,
        targets: NDArray[np.float64],
        predictions: NDArray[np.float64],
        loss: float | None = None,  # noqa: ARG002
    ) -> Numbers:
        """Put the numbers beside the true ones; the loss follows from these."""
        return Numbers(true=targets, predicted=predictions, sd=self.sd)

    def scores(self, answers: Numbers) -> Scores:
        """Score what was said of some rows, by every metric.

        Raises:
            TrainingError: the user's own metric fails on these rows.
        """
        return regression_scores(answers, self.objective)

    def objective_on(self, answers: Numbers) -> float:
        """Score what was said of some rows by the objective alone; raises what `scores` does."""
        return regression_score(answers, self.objective)

    def slice_score(self, answers: Numbers) -> float:
        """Return minus the root of the mean squared error: a correlation within a slice leaves out where it lies."""
        return float(METRICS["neg_rmse"].of(answers))
