"""The first steps of each optimizer on f(w) = a/2 w^2 against its published formula, in numpy."""

import numpy as np
import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters, OptimizerName
from hpo.training.optimizers import OPTIMIZERS

CURVATURE = np.array([1.0, 10.0, 0.1])
START = np.array([1.0, -2.0, 3.0])
RATE = 0.05
STEPS = 5


def trained(**values: object) -> np.ndarray:
    hyperparameters = Hyperparameters.model_validate({"learning_rate": RATE, **values})
    weight = torch.nn.Parameter(torch.tensor(START))
    optimizer = OPTIMIZERS[hyperparameters.optimizer]([weight], hyperparameters)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (torch.tensor(CURVATURE) * weight**2 / 2).sum().backward()
        optimizer.step()
    return weight.detach().numpy()


def test_sgd():
    assert trained(optimizer="sgd") == pytest.approx(START * (1 - RATE * CURVATURE) ** STEPS)


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_momentum(momentum):
    weight, velocity = START, 0.0
    for _ in range(STEPS):
        velocity = (0.9 if momentum is None else momentum) * velocity + CURVATURE * weight
        weight = weight - RATE * velocity
    assert trained(optimizer="momentum", momentum=momentum) == pytest.approx(weight)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(("beta1", "beta2", "epsilon"), [(None, None, None), (0.8, 0.95, 1e-3)])
def test_adam_and_adamw_less_its_decay(name, beta1, beta2, epsilon):
    b1, b2, eps = beta1 or 0.9, beta2 or 0.999, epsilon or 1e-8
    weight, first, second = START, 0.0, 0.0
    for step in range(1, STEPS + 1):
        gradient = CURVATURE * weight
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        weight = weight - RATE * (first / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + eps)
    assert trained(optimizer=name, beta1=beta1, beta2=beta2, epsilon=epsilon) == pytest.approx(weight)


@pytest.mark.parametrize(("alpha", "momentum"), [(None, None), (0.9, 0.5)])
def test_rmsprop(alpha, momentum):
    weight, square, velocity = START, 0.0, 0.0
    decay = 0.99 if alpha is None else alpha
    for _ in range(STEPS):
        gradient = CURVATURE * weight
        square = decay * square + (1 - decay) * gradient**2
        velocity = (momentum or 0.0) * velocity + gradient / (np.sqrt(square) + 1e-8)
        weight = weight - RATE * velocity
    assert trained(optimizer="rmsprop", alpha=alpha, momentum=momentum) == pytest.approx(weight)


def test_none_decays_weights_by_itself():
    for name, build in OPTIMIZERS.items():
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = build([weight], Hyperparameters.model_validate({"optimizer": name, "l2_strength": 0.5}))
        weight.grad = torch.zeros(3)
        optimizer.step()
        assert torch.equal(weight, torch.ones(3)), name


def test_every_optimizer_that_can_be_named_can_be_built():
    assert set(OPTIMIZERS) == set(OptimizerName.__args__)
