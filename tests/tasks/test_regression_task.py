"""A regression's targets, loss and predictions are what their definitions say, in the unit of the labels."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyRegressor

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TASK_FACTS, TaskConfig
from hpo.errors import ConfigurationError, SpaceError
from hpo.metrics.jackknife import deviations, leave_out_groups
from hpo.search.preflight import space_of_study
from hpo.tasks.held_out import HeldOutRows, evaluate_held_out
from hpo.tasks.regression import Regression

CELLS = ("3", "5.5", "-2", "1e1")
CPU = torch.device("cpu")


def task() -> Regression:
    return Regression.of(TaskConfig(name="regression"), CELLS)


def study(**sections: object) -> StudyConfig:
    needed = {"study": "s", "model": {"name": "m"}, "data": {"train": "t.csv"}, "task": {"name": "regression"}}
    return StudyConfig.model_validate({**needed, "space": "encoder", **sections})


def outputs_of(numbers: Any) -> torch.Tensor:
    """Return what a network answers that is right about these numbers."""
    return torch.from_numpy((np.asarray(numbers) - 4.125) / np.std([3, 5.5, -2, 10]))[:, None]


def test_outputs_are_scaled_by_the_training_rows() -> None:
    one = task()
    assert (one.mean, one.sd) == (pytest.approx(4.125), pytest.approx(np.std([3, 5.5, -2, 10])))
    assert one.targets(CELLS).tolist() == [3, 5.5, -2, 10]
    losses = one.criterion(Hyperparameters(), CPU)(outputs_of([3, 5.5, -2, 10]), torch.from_numpy(one.targets(CELLS)))
    assert losses.tolist() == pytest.approx([0] * 4)
    of_others = one.scaled_by(np.array([1.0, 3.0]))
    assert (of_others.mean, of_others.sd, of_others.metric) == (2, 1, one.metric)


def test_predictions_are_in_the_unit_of_the_labels() -> None:
    one, outputs = task(), outputs_of([7, -1])
    assert one.predictions(outputs) == pytest.approx([7, -1])
    assert one.columns(np.array([7.0, -1.5])) == {"prediction": ["7.0", "-1.5"]}
    assert Regression.restored(one.learned()).predictions(outputs) == pytest.approx([7, -1])


def test_the_loss_of_a_row_is_its_squared_error_in_standard_deviations() -> None:
    one, values = task(), Hyperparameters()
    true, outputs = ["5", "0"], outputs_of([7, -1]).float()
    losses = one.criterion(values, CPU)(outputs, torch.from_numpy(one.targets(true)))
    sd = np.std([3, 5.5, -2, 10])
    assert losses.tolist() == pytest.approx([4 / sd**2, 1 / sd**2], rel=1e-6)
    assert losses.dtype == torch.float32
    predicted = one.with_targets(one.targets(true), one.predictions(outputs))
    assert predicted.loss == pytest.approx(5 / 2 / sd**2, rel=1e-6)
    assert one.scores(predicted).values["neg_mae"] == pytest.approx(-1.5)


def test_a_held_out_evaluation_has_the_jackknife_over_rows_and_errors_by_length() -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=300)
    predicted = task().with_targets(true, true + random.normal(size=300))
    held_out = evaluate_held_out(task(), predicted, HeldOutRows(words=random.integers(1, 50, 300), groups=(), seed=1))
    groups = leave_out_groups(np.arange(300), 1)
    expected = deviations(lambda kept: np.corrcoef(predicted.true[kept], predicted.predicted[kept])[0, 1], groups)
    assert held_out.deviations == pytest.approx(expected)
    # Of a correlation r of n rows (1 - r^2) / sqrt(n), where both are normal.
    correlation = held_out.scores.objective
    assert sum(one**2 for one in held_out.deviations) ** 0.5 == pytest.approx((1 - correlation**2) / 300**0.5, rel=0.3)
    assert held_out.of_a_unit == 0
    squares = sum(one.rows * one.score**2 for one in held_out.slices) / 300
    assert squares == pytest.approx(held_out.scores.values["neg_rmse"] ** 2)
    assert TASK_FACTS["regression"].slices == ("neg_rmse",)


def test_the_mean_is_what_a_baseline_says_that_sees_nothing() -> None:
    one, nothing = task(), np.zeros((4, 1))
    fitted = one.baselines["mean of training"].estimator().fit(nothing, one.targets(CELLS))
    assert isinstance(fitted, DummyRegressor)
    assert one.baseline_predictions(fitted, nothing) == pytest.approx([4.125] * 4)


@pytest.mark.parametrize(
    "sections",
    [
        {"task": {"name": "regression", "positive_label": "1"}},
        {"task": {"name": "regression", "beta": 1.0}},
        {"data": {"train": "t.csv", "rare_labels": "drop"}},
    ],
)
def test_keys_without_a_meaning_are_refused(sections: dict[str, dict[str, object]]) -> None:
    (name, values), *_ = sections.items()
    with pytest.raises(ValueError, match=rf"which has no classes: leave out {name}\.{list(values)[-1]}"):
        study(**sections)


def test_a_shipped_space_goes_without_what_has_no_meaning_and_says_so() -> None:
    space = space_of_study(study())
    named = {parameter.name for parameter in space.parameters}
    assert named.isdisjoint(("label_smoothing", "class_weights"))
    assert (
        space.notes[-1]
        == "Space encoder is searched without label_smoothing, class_weights, which regression does not use."
    )
    whole = space_of_study(study(task={"name": "classification"}))
    assert {parameter.name for parameter in whole.parameters} - named == {"label_smoothing", "class_weights"}


def test_a_space_of_ones_own_must_not_have_it() -> None:
    searched = {"class_weights": {"values": ["equal", "balanced"], "default": "balanced"}, "epochs": {"value": 2}}
    with pytest.raises(SpaceError, match="which has no classes: leave out class_weights"):
        space_of_study(study(space=searched))
    assert space_of_study(study(space={"class_weights": {"value": "equal"}, "epochs": {"value": 2}})).notes == ()


def test_a_metric_of_classes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Regression has no metric 'f1'"):
        Regression.of(TaskConfig(name="regression", metric="f1"), CELLS)
