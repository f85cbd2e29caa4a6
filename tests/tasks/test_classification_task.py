"""A classification's loss, probabilities, weights and scores are what their definitions say."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError
from hpo.metrics.confusion import ClassPredictions
from hpo.tasks.classification import Classification

LABELS = ("a", "b", "c")
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
TARGETS = torch.tensor([0, 1])
SAID = ClassPredictions(true=np.array([0, 1, 2]), probabilities=np.eye(3)[[0, 1, 1]], loss=0.7)


def task(**config: Any) -> Classification:
    return Classification.of(TaskConfig(**config), ["a", "b", "c", "a"])


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def smoothed(row: list[float], true: int, mass: float) -> float:
    return -(1 - mass) * row[true] - mass * sum(row) / 3


def losses(
    logits: torch.Tensor, targets: torch.Tensor, weights: Sequence[float] | None = None, mass: float = 0.0
) -> Any:
    """Return the loss of each row that a trial trains by; of weights those of the classes."""
    values = Hyperparameters(label_smoothing=mass, class_weights="balanced" if weights else "equal")
    weighted = dataclasses.replace(task(), class_weights=tuple(weights or (1.0, 1.0, 1.0)))
    return weighted.criterion(values, torch.device("cpu"))(logits, targets)


def test_targets_are_places_among_the_label_names() -> None:
    targets = task().targets(["b", "a", "c", "b"])
    assert targets.dtype == np.int64
    assert targets.tolist() == [1, 0, 2, 1]


def test_the_loss_is_the_mean_cross_entropy() -> None:
    rows = [log_softmax(row) for row in LOGITS.tolist()]
    assert float(losses(LOGITS, TARGETS).mean()) == pytest.approx(-(rows[0][0] + rows[1][1]) / 2)


def test_label_smoothing_spreads_mass_over_all_labels() -> None:
    rows = [log_softmax(row) for row in LOGITS.tolist()]
    expected = (smoothed(rows[0], 0, 0.3) + smoothed(rows[1], 1, 0.3)) / 2
    assert float(losses(LOGITS, TARGETS, mass=0.3).mean()) == pytest.approx(expected)


@pytest.mark.parametrize("mass", [0.0, 0.3])
def test_weights_multiply_the_rows_of_their_label(mass: float) -> None:
    rows = [log_softmax(row) for row in LOGITS.tolist()]
    expected = (0.5 * smoothed(rows[0], 0, mass) + 4.0 * smoothed(rows[1], 1, mass)) / 2
    assert float(losses(LOGITS, TARGETS, [0.5, 4.0, 9.0], mass).mean()) == pytest.approx(expected)


def test_weighted_batches_add_up_to_the_weighted_loss_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(12, 3, generator=generator), torch.arange(12) % 3
    weights = [0.2, 1.0, 3.0]
    parts = [slice(start, start + 4) for start in (0, 4, 8)]
    batches = [losses(logits[rows], labels[rows], weights, 0.1).mean() for rows in parts]
    assert float(sum(batches)) / 3 == pytest.approx(float(losses(logits, labels, weights, 0.1).mean()))


def test_class_weights_count_labels_alike() -> None:
    train = ["b", "c", "a", "c", "c", "b"]
    weights = Classification.of(TaskConfig(), train).class_weights
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.array(LABELS), y=train))
    assert [weight * train.count(label) for weight, label in zip(weights, LABELS, strict=True)] == pytest.approx(
        [2] * 3
    )


def test_probabilities_are_the_softmax_in_float64() -> None:
    probabilities = task().predictions(LOGITS)
    assert probabilities.dtype == np.float64
    assert np.log(probabilities).tolist() == [pytest.approx(log_softmax(row)) for row in LOGITS.tolist()]


def test_near_certain_labels_keep_their_order() -> None:
    confident = task().predictions(torch.tensor([[20.0, 0.0, 0.0], [25.0, 0.0, 0.0], [30.0, 0.0, 0.0]]))
    assert np.all(np.diff(confident[:, 0]) > 0)


def test_scores_carry_objective_and_loss() -> None:
    scores = task().scores(SAID)
    assert scores.metric == "macro_f1"
    assert scores.objective == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores.values["loss"] == -scores.values["neg_log_loss"] == 0.7
    assert scores.rows == 3


def test_beta_is_the_studys() -> None:
    scores = task(metric="macro_fbeta", beta=0.5).scores(SAID)
    assert scores.objective == pytest.approx((1 + 1.25 / (1.25 + 1) + 0) / 3)


def test_a_metric_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="3 classes"):
        task(metric="f1")
