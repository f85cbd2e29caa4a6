import math

import numpy as np
import pytest
import torch

from hpo.config.study_file import TaskConfig
from hpo.errors import ConfigurationError
from hpo.tasks import TASKS
from hpo.tasks.classification import Classification

LABELS = ("a", "b", "c")
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
TARGETS = torch.tensor([0, 1])


def task() -> Classification:
    return Classification.of(TaskConfig(), LABELS, ["a", "b", "c"])


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in row))
    return [value - total for value in row]


def test_the_loss_is_the_mean_cross_entropy():
    rows = [log_softmax(row) for row in LOGITS.tolist()]
    assert float(task().loss(LOGITS, TARGETS)) == pytest.approx(-(rows[0][0] + rows[1][1]) / 2)


def test_label_smoothing_spreads_mass_over_all_labels():
    rows = [log_softmax(row) for row in LOGITS.tolist()]
    expected = -sum(0.7 * row[true] + 0.3 * sum(row) / 3 for row, true in zip(rows, (0, 1), strict=True)) / 2
    assert float(task().loss(LOGITS, TARGETS, label_smoothing=0.3)) == pytest.approx(expected)


def test_decoding_takes_the_most_likely():
    assert task().decode(LOGITS).tolist() == [0, 2]


def test_scores_carry_objective_and_loss():
    scores = task().scores(np.array([0, 1, 2]), np.array([0, 1, 1]), 0.7)
    assert scores.metric == "macro_f1"
    assert scores.objective == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores.values["loss"] == 0.7
    assert scores.rows == 3


def test_a_metric_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="3 classes"):
        Classification.of(TaskConfig(metric="f1"), LABELS, ["a", "b", "c"])


def test_every_task_that_can_be_named_exists():
    assert set(TASKS) == set(TaskConfig.model_fields["name"].annotation.__args__)
