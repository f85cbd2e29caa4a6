import dataclasses
import math

import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch
from hpo.model.backbone import Backbone
from hpo.model.methods import METHODS
from hpo.tasks.classification import Classification
from hpo.training.optimizers import OPTIMIZERS, rate_factors
from tests.models import Training, tiny_hyperparameters

STEPS = 20
# Where each learns in 20 steps; 1e-2 for the others.
RATES = {"sgd": 0.1, "adadelta": 1.0, "adagrad": 0.1, "adafactor": 0.1, "lion": 1e-3}


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 40, (8, 6), generator=generator)
    return Batch(
        inputs={"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)},
        targets=torch.arange(8) % 2,
    )


def begin(
    model: Backbone, task: Classification, hyperparameters: Hyperparameters, total_steps: int = STEPS
) -> Training:
    """Return a trial without dropout, so that a loss depends on the weights alone."""
    training = Training(model, task, hyperparameters, total_steps)
    model.network.eval()
    return training


def weights_of(training: Training) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in training.parameters.items()}


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(some[name], others[name]) for name in some)


def loss_of(training: Training, batch: Batch) -> float:
    with torch.no_grad(), training.evaluating():
        logits = training.model.backbone.logits(batch, "fp32")
        return float(training.model.criterion(logits, batch.targets).mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_learns_a_batch_by_heart(name, method, bert: Backbone, task: Classification, batch: Batch):
    values = {"optimizer": name, "learning_rate": RATES.get(name, 1e-2), "method": method}
    training = begin(bert, task, tiny_hyperparameters(**values, layerwise_rate_decay=0.9))
    at_first = loss_of(training, batch)
    for _ in range(STEPS):
        training.step(batch)
    assert math.isfinite(training.mean_loss())
    assert loss_of(training, batch) < at_first


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_first_step_of_warm_up_leaves_all_weights_as_they_are(name, bert, task, batch):
    held_back = {"l1_strength": 0.1, "l1_form": "penalty", "l2_strength": 0.1, "l2_form": "decoupled"}
    training = begin(bert, task, tiny_hyperparameters(optimizer=name, warmup_ratio=0.5, **held_back))
    before = weights_of(training)
    training.step(batch)
    assert training.rate == 0
    assert same(weights_of(training), before)
    training.step(batch)
    assert training.rate > 0
    assert not same(weights_of(training), before)


def test_each_layer_moves_at_its_own_rate(bert, task, batch):
    values = {"optimizer": "sgd", "warmup_ratio": 0.0, "l2_strength": 0.0, "max_grad_norm": None}
    moved = {}
    for decay in (1.0, 0.5):
        training = begin(bert, task, tiny_hyperparameters(**values, layerwise_rate_decay=decay))
        before = weights_of(training)
        training.step(batch)
        moved[decay] = {name: weight - before[name] for name, weight in weights_of(training).items()}
    factors = rate_factors(bert.network, moved[0.5], 0.5)
    assert set(factors.values()) == {1.0, 0.5, 0.25, 0.125}
    for name, factor in factors.items():
        torch.testing.assert_close(moved[0.5][name], factor * moved[1.0][name], rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_head_moves_by_its_own_rate_in_a_step_and_nothing_else_does(name, bert, task, batch):
    values = {"optimizer": name, "learning_rate": 1e-3, "warmup_ratio": 0.0, "l2_strength": 0.0, "max_grad_norm": None}
    moved = {}
    for rate in (1.0, 10.0):
        training = begin(bert, task, tiny_hyperparameters(**values, layerwise_rate_decay=0.5, head_rate=rate))
        before = weights_of(training)
        training.step(batch)
        moved[rate] = {one: weight - before[one] for one, weight in weights_of(training).items()}
    for one, distance in moved[1.0].items():
        expected = 10 * distance if one.startswith("classifier.") else distance
        assert distance.any() or one.endswith("key.bias") or name == "adadelta", one
        torch.testing.assert_close(moved[10.0][one], expected, rtol=1e-3, atol=1e-7)


def test_what_shrinks_the_head_goes_at_its_rate_too(bert, task, batch):
    values = {"learning_rate": 1e-3, "warmup_ratio": 0.0, "l2_strength": 0.5, "method": "head", "optimizer": "sgd"}
    ends = []
    for rate in (10.0, 1.0):
        learning_rate = values["learning_rate"] * 10 / rate
        training = begin(
            bert, task, tiny_hyperparameters(**values | {"learning_rate": learning_rate, "head_rate": rate})
        )
        training.step(batch)
        ends.append(weights_of(training))
    pooler = [one for one in ends[0] if "pooler" in one]
    assert pooler
    assert all(torch.equal(ends[0][one], ends[1][one]) != (one in pooler) for one in ends[0])


@pytest.fixture
def averaging(bert, task, batch) -> Training:
    """Schedule-free training, some steps in."""
    training = begin(bert, task, tiny_hyperparameters(optimizer="schedule_free_adamw"))
    for _ in range(5):
        training.step(batch)
    return training


def test_other_weights_are_scored_and_saved_than_are_trained(averaging: Training, batch: Batch):
    before = weights_of(averaging)
    with averaging.evaluating():
        inside = weights_of(averaging)
    assert not any(torch.equal(inside[name], before[name]) for name in ("classifier.weight", "classifier.bias"))
    assert same(weights_of(averaging), before)
    averaging.step(batch)


def test_they_train_on_after_an_evaluation_that_failed(averaging: Training, batch: Batch):
    before = weights_of(averaging)
    with pytest.raises(MemoryError), averaging.evaluating():
        raise MemoryError
    assert same(weights_of(averaging), before)
    averaging.step(batch)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_looking_changes_nothing(name, bert, task, batch):
    ends = []
    for looks in (False, True):
        training = begin(bert, task, tiny_hyperparameters(optimizer=name))
        for _ in range(5):
            if looks:
                loss_of(training, batch)
            training.step(batch)
        ends.append(weights_of(training))
    assert same(*ends)


def test_a_plateau_of_the_score_cuts_the_rate_once_warm_up_is_over(bert, task, batch):
    values = {"schedule": "reduce_on_plateau", "plateau_patience": 0, "decay_factor": 0.5, "warmup_ratio": 0.2}
    training = begin(bert, task, tiny_hyperparameters(learning_rate=0.01, **values))
    rates = []
    for _ in range(8):
        training.step(batch)
        training.observe(0.5)
        rates.append(training.rate)
    # Four steps of warm-up; the score after the fourth is the first that counts, those after it are no better.
    assert rates == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01, 0.005, 0.0025, 0.00125])


def test_a_plateau_means_nothing_to_other_schedules(bert, task, batch):
    training = begin(bert, task, tiny_hyperparameters(schedule="constant", warmup_ratio=0.0, learning_rate=0.01))
    for _ in range(3):
        training.observe(0.5)
        training.step(batch)
    assert training.rate == 0.01


def test_balanced_classes_count_alike_in_the_loss(bert, task, batch):
    task = dataclasses.replace(task, class_weights=(0.5, 3.0))
    losses = {}
    for chosen in ("equal", "balanced"):
        training = begin(bert, task, tiny_hyperparameters(class_weights=chosen))
        training.step(batch)
        losses[chosen] = training.mean_loss()
    bert.reset(0)
    with torch.no_grad():
        of_rows = -bert.logits(batch, "fp32").log_softmax(-1)[torch.arange(8), batch.targets]
    assert losses["equal"] == pytest.approx(float(of_rows.mean()))
    weights = torch.tensor([0.5, 3.0])[batch.targets]
    assert losses["balanced"] == pytest.approx(float((weights * of_rows).mean()))
