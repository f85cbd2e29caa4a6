"""The first steps of each optimizer on a/2 w^2 + b w, b anew in each, against its published formula, in numpy."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters, OptimizerName
from hpo.training.optimizers import OPTIMIZERS

RANDOM = np.random.default_rng(0)
CURVATURE = 10.0 ** RANDOM.uniform(-1, 1, (3, 4))
START = RANDOM.normal(size=(3, 4))
RATE = 0.05
STEPS = 12
SLOPES = RANDOM.normal(size=(STEPS, 3, 4))


def momentum(m, g, w, t, h):
    m.v = h.momentum * m.v + g
    return w - RATE * m.v


def nesterov(m, g, w, t, h):
    m.v = h.momentum * m.v + g
    return w - RATE * (g + h.momentum * m.v)


def moments(m, g, h):
    m.v, m.s = h.beta1 * m.v + (1 - h.beta1) * g, h.beta2 * m.s + (1 - h.beta2) * g**2


def adam(m, g, w, t, h):
    moments(m, g, h)
    return w - RATE * (m.v / (1 - h.beta1**t)) / (np.sqrt(m.s / (1 - h.beta2**t)) + h.epsilon)


def nadam(m, g, w, t, h):
    """Dozat 2016, algorithm 2, with the momentum schedule of its section 2."""
    moments(m, g, h)
    mu, following = (h.beta1 * (1 - 0.5 * 0.96 ** (at * h.momentum_decay)) for at in (t, t + 1))
    m.product *= mu
    ahead = following * m.v / (1 - m.product * following) + (1 - mu) * g / (1 - m.product)
    return w - RATE * ahead / (np.sqrt(m.s / (1 - h.beta2**t)) + h.epsilon)


def radam(m, g, w, t, h):
    """Liu et al. 2020, algorithm 2, the variance trusted from a length of 5 on, as its authors' code does."""
    moments(m, g, h)
    longest = 2 / (1 - h.beta2) - 1
    length = longest - 2 * t * h.beta2**t / (1 - h.beta2**t)
    if length <= 5:
        return w - RATE * m.v / (1 - h.beta1**t)
    r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return w - RATE * r * m.v / (1 - h.beta1**t) * np.sqrt(1 - h.beta2**t) / (np.sqrt(m.s) + h.epsilon)


def adamax(m, g, w, t, h):
    m.v, m.s = h.beta1 * m.v + (1 - h.beta1) * g, np.maximum(h.beta2 * m.s, np.abs(g) + h.epsilon)
    return w - RATE / (1 - h.beta1**t) * m.v / m.s


def adagrad(m, g, w, t, h):
    m.s = m.s + g**2
    return w - RATE * g / (np.sqrt(m.s) + h.epsilon)


def adadelta(m, g, w, t, h):
    m.s = h.rho * m.s + (1 - h.rho) * g**2
    step = np.sqrt(m.v + h.epsilon) / np.sqrt(m.s + h.epsilon) * g
    m.v = h.rho * m.v + (1 - h.rho) * step**2
    return w - RATE * step


def adafactor(m, g, w, t, h):
    """Shazeer and Stern 2018, algorithm 4, the rate in place of 0.01: the largest relative step."""
    fresh = t**h.decay_rate
    m.rows = (1 - fresh) * m.rows + fresh * (g**2).mean(axis=1, keepdims=True)
    m.columns = (1 - fresh) * m.columns + fresh * (g**2).mean(axis=0, keepdims=True)
    update = g / np.sqrt(m.rows * m.columns / m.rows.mean())
    update = update / max(1, rms(update) / h.clip_threshold)
    return w - max(1e-3, rms(w)) * min(RATE, t**-0.5) * update


def rms(values):
    return np.sqrt((values**2).mean())


def rmsprop(m, g, w, t, h):
    m.s = h.alpha * m.s + (1 - h.alpha) * g**2
    m.v = h.momentum * m.v + g / (np.sqrt(m.s) + h.epsilon)
    return w - RATE * m.v


def lion(m, g, w, t, h):
    moved = w - RATE * np.sign(h.beta1 * m.v + (1 - h.beta1) * g)
    m.v = h.beta2 * m.v + (1 - h.beta2) * g
    return moved


def schedule_free_adamw(m, g, w, t, h):
    """Defazio et al. 2024, algorithm 1: the gradient is taken at y, which is between x and z."""
    m.s = h.beta2 * m.s + (1 - h.beta2) * g**2
    m.z = m.z - RATE * g / (np.sqrt(m.s / (1 - h.beta2**t)) + h.epsilon)
    m.x = (1 - 1 / t) * m.x + m.z / t
    return (1 - h.beta1) * m.z + h.beta1 * m.x


def muon(m, g, w, t, h):
    """Jordan et al. 2024, scaled to the root mean square of AdamW's updates (Liu et al. 2025, equation 4)."""
    m.v = h.momentum * m.v + g
    return w - RATE * 0.2 * np.sqrt(max(w.shape)) * newton_schulz(g + h.momentum * m.v, h.newton_schulz_steps)


def newton_schulz(x, steps):
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


Formula = Callable[[SimpleNamespace, np.ndarray, np.ndarray, int, Hyperparameters], np.ndarray]

# From what it remembers, the gradient, the weight, the step from 1 and the trial's values to the next weight.
KNOWN_ANSWERS: dict[str, Formula] = {
    "sgd": lambda m, g, w, t, h: w - RATE * g,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adam,
    "adamw": adam,
    "nadam": nadam,
    "radam": radam,
    "adamax": adamax,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "adafactor": adafactor,
    "rmsprop": rmsprop,
    "lion": lion,
    "schedule_free_adamw": schedule_free_adamw,
    "muon": muon,
}

OTHER_VALUES: dict[str, dict[str, float]] = {
    "momentum": {"momentum": 0.5},
    "nesterov": {"momentum": 0.5},
    "adam": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2},
    "adamw": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2},
    "nadam": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2, "momentum_decay": 0.1},
    "radam": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2},
    "adamax": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2},
    "adagrad": {"epsilon": 1e-2},
    "adadelta": {"rho": 0.8, "epsilon": 1e-2},
    "adafactor": {"decay_rate": -0.5, "clip_threshold": 1.1},
    "rmsprop": {"alpha": 0.9, "momentum": 0.5, "epsilon": 1e-2},
    "lion": {"beta1": 0.3, "beta2": 0.5},
    "schedule_free_adamw": {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2},
    "muon": {"momentum": 0.5, "newton_schulz_steps": 2},
}
# Muon multiplies in bf16, which has 8 bits of precision.
TOLERANCE = {"muon": 5e-3}


def built(
    name: str, weight: torch.nn.Parameter, hidden: bool = True, **values: float
) -> tuple[torch.optim.Optimizer, Hyperparameters]:
    hyperparameters = Hyperparameters.model_validate({"learning_rate": RATE, "optimizer": name, **values})
    groups = [{"params": [weight], "rate_factor": 1.0, "hidden": hidden}]
    return OPTIMIZERS[name].build(groups, hyperparameters), hyperparameters


def take_steps(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, steps: int = STEPS) -> np.ndarray:
    for step in range(steps):
        optimizer.zero_grad()
        (torch.tensor(CURVATURE) * weight**2 / 2 + torch.tensor(SLOPES[step]) * weight).sum().backward()
        optimizer.step()
    return weight.detach().numpy().copy()


def trained(name: str, hidden: bool = True, **values: float) -> np.ndarray:
    weight = torch.nn.Parameter(torch.tensor(START))
    return take_steps(built(name, weight, hidden, **values)[0], weight)


def known(name: str, **values: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight by the formula, and the average of schedule-free."""
    hyperparameters = Hyperparameters.model_validate({"learning_rate": RATE, "optimizer": name, **values})
    memory, weight = SimpleNamespace(v=0.0, s=0.0, rows=0.0, columns=0.0, product=1.0, x=START, z=START), START
    for step in range(STEPS):
        gradient = CURVATURE * weight + SLOPES[step]
        weight = KNOWN_ANSWERS[name](memory, gradient, weight, step + 1, hyperparameters)
    return weight, memory.x


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_steps_are_the_published_ones(name):
    assert trained(name) == pytest.approx(known(name)[0], rel=1e-6, abs=TOLERANCE.get(name, 1e-9))


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_so_they_are_at_other_values(name):
    other = OTHER_VALUES[name]
    expected, _ = known(name, **other)
    assert trained(name, **other) == pytest.approx(expected, rel=1e-6, abs=TOLERANCE.get(name, 1e-9))
    assert not np.allclose(expected, known(name)[0], atol=5 * TOLERANCE.get(name, 1e-9))


def test_every_optimizer_that_can_be_named_can_be_built_and_has_a_known_answer():
    assert set(OPTIMIZERS) == set(OptimizerName.__args__) == set(KNOWN_ANSWERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_none_decays_weights_by_itself(name):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer, _ = built(name, weight, l2_strength=0.5)
    weight.grad = torch.zeros(2, 3)
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 3))


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_at_rate_zero_weights_stand_still_and_training_goes_on_from_there(name, hidden):
    weight = torch.nn.Parameter(torch.tensor(START))
    optimizer, _ = built(name, weight, hidden)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert np.array_equal(take_steps(optimizer, weight, steps=2), START)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    moved = take_steps(optimizer, weight, steps=2)
    assert np.isfinite(moved).all()
    assert (moved != START).any()


def test_nesterov_without_momentum_is_gradient_descent():
    assert np.array_equal(trained("nesterov", momentum=0.0), trained("sgd"))


def test_muon_moves_what_is_not_hidden_as_adamw_does():
    values = OTHER_VALUES["adamw"]
    assert np.array_equal(trained("muon", hidden=False, **values), trained("adamw", **values))
    assert not np.allclose(trained("muon", hidden=True, **values), trained("adamw", **values), atol=1e-2)


def test_an_update_of_muon_is_nearly_orthogonal():
    weight = torch.nn.Parameter(torch.tensor(START))
    moved = START - take_steps(built("muon", weight)[0], weight, steps=1)
    sizes = np.linalg.svd(moved, compute_uv=False) / (RATE * 0.2 * np.sqrt(max(START.shape)))
    assert ((sizes > 0.6) & (sizes < 1.3)).all()


def test_muon_steps_both_its_parts_and_keeps_their_rates_apart():
    hyperparameters = Hyperparameters(optimizer="muon", learning_rate=RATE)
    weights = [torch.nn.Parameter(torch.tensor(START)) for _ in range(2)]
    groups = [{"params": [w], "rate_factor": 1.0, "hidden": w is weights[0]} for w in weights]
    optimizer = OPTIMIZERS["muon"].build(groups, hyperparameters)
    assert [group["params"] for group in optimizer.param_groups] == [[weights[0]], [weights[1]]]
    optimizer.param_groups[0]["lr"] = 0.0
    sum((torch.tensor(CURVATURE) * weight**2 / 2).sum() for weight in weights).backward()
    optimizer.step()
    assert np.array_equal(weights[0].detach(), START)
    assert (weights[1].detach().numpy() != START).all()
    optimizer.zero_grad()
    assert [weight.grad for weight in weights] == [None, None]


def test_schedule_free_needs_a_beta1():
    reason = "'optimizer' is schedule_free_adamw, 'beta1' is 0.0: its average is read off .*; give a `beta1` above 0"
    with pytest.raises(ValueError, match=reason):
        Hyperparameters(optimizer="schedule_free_adamw", beta1=0.0)


def test_schedule_free_scores_the_average_of_its_iterates():
    weight = torch.nn.Parameter(torch.tensor(START))
    optimizer, _ = built("schedule_free_adamw", weight)
    at_gradients, average = take_steps(optimizer, weight), known("schedule_free_adamw")[1]
    with OPTIMIZERS["schedule_free_adamw"].evaluating(optimizer):
        assert weight.detach().numpy() == pytest.approx(average)
    assert not np.allclose(average, at_gradients)
