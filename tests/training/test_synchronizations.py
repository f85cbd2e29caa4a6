"""A step waits for the device as seldom as can be: never by our own doing, but at every tenth to look at the loss."""

from typing import get_args

import pytest

from hpo.config.hyperparameters import OptimizerName
from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.training.context import TrainingContext
from hpo.training.optimizer_step import CHECK_EVERY
from hpo.training.worker import open_worker
from tests.models import tiny_hyperparameters
from tests.training.synchronizing import begun, take, waits

OF_A_PARAMETER = {"adafactor": 2}
"""Numbers that torch's own optimizer takes to the host for each parameter."""


@pytest.fixture(scope="module")
def context(study: StudyConfig) -> TrainingContext:
    return open_worker(study, load_splits(study.data, study.seed))._context


def counted(context: TrainingContext, taken: int, **values: object) -> tuple[int, int]:
    """Return how often a step waits after so many were taken, and how many parameters it is of."""
    hyperparameters = tiny_hyperparameters(**values)
    step = begun(context, hyperparameters, taken)
    with waits(step) as found:
        take(context, step, hyperparameters)
    return found.count, len(step.parameters)


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_a_step_waits_for_no_number_of_its_own(context: TrainingContext, optimizer: str) -> None:
    found, parameters = counted(context, 3, optimizer=optimizer)
    assert found <= OF_A_PARAMETER.get(optimizer, 0) * parameters


@pytest.mark.parametrize(
    "values",
    [
        {"max_grad_norm": 0.1},
        {"l1_strength": 1e-3, "l2_strength": 1e-2, "l2_form": "coupled"},
        {"regularize_towards": "pretrained", "l2_strength": 1e-2},
        {"layerwise_rate_decay": 0.9, "head_rate": 5.0},
        {"schedule": "reduce_on_plateau"},
        {"class_weights": "balanced", "label_smoothing": 0.1},
    ],
    ids="-".join,
)
def test_what_else_a_step_may_do_waits_for_nothing(context: TrainingContext, values: dict[str, object]) -> None:
    assert counted(context, 3, **values)[0] == 0


def test_every_tenth_step_looks_at_the_loss_and_the_norm(context: TrainingContext) -> None:
    """So the count counts: these two are known to be taken to the host."""
    usual, _ = counted(context, CHECK_EVERY - 2)
    checking, _ = counted(context, CHECK_EVERY - 1)
    assert checking == usual + 2
