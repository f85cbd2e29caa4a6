"""Whatever can be written down trains, or is refused with a reason before training."""

import itertools
import math
import time
from pathlib import Path

import optuna
import pytest
import torch
from pydantic import ValidationError

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.splits import load_splits
from hpo.messages import Ending, Outcome
from hpo.model.backbone import Backbone
from hpo.space.space_file import load_space, shipped_spaces
from hpo.tasks.classification import Classification
from hpo.training.gradients import SlotBatch
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.run import Run
from hpo.training.schedules import SCHEDULES
from hpo.training.worker import Worker, open_worker
from tests.models import Training, save_tiny_bert, tiny_assignment, tiny_study
from tests.training.test_optimizer_step import batch  # noqa: F401 - a fixture

STEPS = 3
FEW_DRAWS, DRAWS = 25, 200
FORMS = list(itertools.product(("penalty", "proximal"), ("coupled", "decoupled"), ("zero", "pretrained")))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_under_every_schedule_and_every_form_of_l1_and_l2(
    optimizer: str,
    schedule: str,
    bert: Backbone,
    task: Classification,
    batch,  # noqa: F811
) -> None:
    for l1_form, l2_form, towards in FORMS:
        values = {
            "optimizer": optimizer, "schedule": schedule, "l1_form": l1_form, "l2_form": l2_form,
            "regularize_towards": towards, "l1_strength": 1e-4, "l2_strength": 1e-2, "learning_rate": 1e-3,
        }  # fmt: skip
        cannot_be = optimizer == "schedule_free_adamw" and (schedule != "constant" or l1_form == "proximal")
        if cannot_be:
            with pytest.raises(ValidationError, match=r"averages its weights|keeps no exact zeros"):
                Hyperparameters.model_validate(values)
            continue
        training = Training(bert, task, Hyperparameters.model_validate(values), STEPS)
        before = {name: weight.detach().clone() for name, weight in training.parameters.items()}
        for _ in range(STEPS):
            training.step(batch)
            training.observe(0.5)
        assert math.isfinite(training.mean_loss())
        assert any(not torch.equal(weight, before[name]) for name, weight in training.parameters.items())


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Worker:
    """Of a model with as many layers and positions as the shipped spaces ask for."""
    config = tiny_study(save_tiny_bert(tmp_path_factory.mktemp("deep"), layers=6, longest=256), texts)
    return open_worker(config, load_splits(config.data, config.seed))


@pytest.mark.parametrize("draws", [FEW_DRAWS, pytest.param(DRAWS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", shipped_spaces())
def test_what_a_shipped_space_draws_at_random_trains(name: str, draws: int, worker: Worker) -> None:
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(draws):
        hyperparameters = space.hyperparameters(space.suggest(study.ask()))
        assignment = tiny_assignment(hyperparameters, trial=number, maximum_passes=hyperparameters.epochs)
        run = Run(assignment, worker._context, time.perf_counter)
        answer = None
        for _ in range(STEPS):
            said = run.advance(answer)
            answer = worker._context.gradients.of(said.model, said.batch) if isinstance(said, SlotBatch) else None
            if isinstance(said, Outcome):
                assert said.ending is Ending.COMPLETED, (said.reason, hyperparameters)
                break
        run.close()
