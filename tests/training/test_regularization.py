from collections.abc import Callable
from functools import partial

import pytest
import torch
from lion_pytorch import Lion
from schedulefree import AdamWScheduleFree

from hpo.config.hyperparameters import Hyperparameters
from hpo.training.optimizer_step import Regularizer
from hpo.training.optimizers import OPTIMIZERS

RATE = 0.1


def parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.nn.Parameter(torch.randn(4, 5, generator=generator)),
        "bias": torch.nn.Parameter(torch.randn(4, generator=generator)),
    }


def step(
    weights: dict[str, torch.nn.Parameter],
    pretrained=None,
    gradient=None,
    steps: int = 1,
    factors=None,
    **values: object,
):
    """Take steps of our own: gradients as given (zero if not), then regularizer, optimizer, regularizer."""
    hyperparameters = Hyperparameters.model_validate({"learning_rate": RATE, "l2_strength": 0.0, **values})
    factors = dict.fromkeys(weights, 1.0) | (factors or {})
    kind = OPTIMIZERS[hyperparameters.optimizer]
    groups = [
        {"params": [weight], "rate_factor": factors[name], "hidden": weight.ndim == 2, "lr": RATE * factors[name]}
        for name, weight in weights.items()
    ]
    optimizer = kind.build(groups, hyperparameters)
    regularizer = Regularizer(weights, hyperparameters, pretrained or {}, factors, partial(kind.shift, optimizer))
    for number in range(steps):
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight) if gradient is None else gradient(weight, number)
        regularizer.before_step(RATE)
        optimizer.step()
        regularizer.after_step(RATE)


def some_gradient(weight: torch.Tensor, number: int) -> torch.Tensor:
    return torch.sin(weight.detach() * (number + 1))


def their_own(build: Callable[..., torch.optim.Optimizer], steps: int = 6, **options: float) -> torch.Tensor:
    """Return the matrix after steps of a library's optimizer, with its own decay."""
    weight = parameters()["matrix"]
    optimizer = build([weight], lr=RATE, **options)
    for number in range(steps):
        weight.grad = some_gradient(weight, number)
        optimizer.step()
    return weight.detach()


def schedule_free_in_training(*arguments: object, **options: float) -> torch.optim.Optimizer:
    optimizer = AdamWScheduleFree(*arguments, **options)
    optimizer.train()
    return optimizer


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("nesterov", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", torch.optim.Adam, {}),
        ("nadam", torch.optim.NAdam, {}),
        ("radam", torch.optim.RAdam, {}),
        ("adamax", torch.optim.Adamax, {}),
        ("adagrad", torch.optim.Adagrad, {}),
        ("adadelta", torch.optim.Adadelta, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
    ],
)
def test_coupled_l2_is_the_librarys_own_weight_decay(name, theirs, options):
    weights = parameters()
    step(weights, gradient=some_gradient, steps=6, optimizer=name, l2_strength=0.3)
    torch.testing.assert_close(weights["matrix"].detach(), their_own(theirs, weight_decay=0.3, **options))


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("adamw", torch.optim.AdamW, {}),
        ("nadam", torch.optim.NAdam, {"decoupled_weight_decay": True}),
        ("radam", torch.optim.RAdam, {"decoupled_weight_decay": True}),
        ("lion", Lion, {}),
        ("muon", torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"}),
        ("schedule_free_adamw", schedule_free_in_training, {}),
    ],
)
def test_decoupled_l2_is_the_librarys_own_weight_decay(name, theirs, options):
    weights, plain = parameters(), parameters()
    step(weights, gradient=some_gradient, steps=6, optimizer=name, l2_strength=0.3, l2_form="decoupled")
    torch.testing.assert_close(weights["matrix"].detach(), their_own(theirs, weight_decay=0.3, **options))
    step(plain, gradient=some_gradient, steps=6, optimizer=name)
    assert not torch.allclose(weights["matrix"], plain["matrix"])


def test_decoupled_l2_of_schedule_free_moves_its_average_as_its_own_weight_decay_does():
    values = {"optimizer": "schedule_free_adamw", "l2_strength": 0.3}
    ours, theirs = parameters()["matrix"], parameters()["matrix"]
    hyperparameters = Hyperparameters.model_validate({"learning_rate": RATE, **values})
    kind = OPTIMIZERS["schedule_free_adamw"]
    optimizer = kind.build([{"params": [ours], "rate_factor": 1.0, "hidden": True}], hyperparameters)
    regularizer = Regularizer({"": ours}, hyperparameters, {}, {"": 1.0}, partial(kind.shift, optimizer))
    library = schedule_free_in_training([theirs], lr=RATE, weight_decay=0.3)
    for number, rate in enumerate((0.0, RATE / 2, RATE, RATE)):
        for group in (*optimizer.param_groups, *library.param_groups):
            group["lr"] = rate
        ours.grad, theirs.grad = some_gradient(ours, number), some_gradient(theirs, number)
        regularizer.before_step(rate)
        optimizer.step()
        library.step()
    torch.testing.assert_close(ours, theirs)
    library.eval()
    with kind.evaluating(optimizer):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw"])
def test_decoupled_l2_towards_pretrained_is_towards_zero_seen_from_there(name):
    weights, goal = parameters(), parameters(seed=1)["matrix"].detach()
    moved = {"matrix": torch.nn.Parameter(parameters()["matrix"].detach() - goal)}
    values = {"steps": 6, "optimizer": name, "l2_strength": 0.3, "l2_form": "decoupled"}
    step(weights, {"matrix": goal}, gradient=some_gradient, regularize_towards="pretrained", **values)
    step(moved, gradient=lambda weight, number: some_gradient(weight + goal, number), **values)
    torch.testing.assert_close(weights["matrix"].detach() - goal, moved["matrix"].detach())


def test_coupled_and_decoupled_differ_under_adam():
    coupled, decoupled = parameters(), parameters()
    step(coupled, gradient=some_gradient, optimizer="adam", l2_strength=0.3, l2_form="coupled")
    step(decoupled, gradient=some_gradient, optimizer="adam", l2_strength=0.3, l2_form="decoupled")
    assert not torch.allclose(coupled["matrix"], decoupled["matrix"])


def test_l1_penalty_is_the_gradient_of_the_penalty_in_the_loss():
    weights, inside = parameters(), parameters()["matrix"]
    step(weights, optimizer="sgd", l1_strength=0.2, l1_form="penalty")
    (0.2 * inside.abs().sum()).backward()
    expected = inside.detach() - RATE * inside.grad
    torch.testing.assert_close(weights["matrix"].detach(), expected)


def test_proximal_l1_gives_exact_zeros_and_the_penalty_does_not():
    proximal, penalty = parameters(), parameters()
    step(proximal, steps=20, optimizer="sgd", l1_strength=0.3, l1_form="proximal")
    step(penalty, steps=20, optimizer="sgd", l1_strength=0.3, l1_form="penalty")
    small = parameters()["matrix"].abs() < 20 * RATE * 0.3
    assert small.any()
    assert torch.equal(proximal["matrix"] == 0, small)
    assert not (penalty["matrix"] == 0).any()


FORMS = [
    {"l1_strength": 0.3, "l1_form": "penalty"},
    {"l1_strength": 0.3, "l1_form": "proximal"},
    {"l2_strength": 0.3, "l2_form": "coupled"},
    {"l2_strength": 0.3, "l2_form": "decoupled"},
]


@pytest.mark.parametrize("form", FORMS)
def test_towards_pretrained_leaves_pretrained_weights_still(form):
    weights = parameters()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    step(weights, before, steps=3, optimizer="adam", regularize_towards="pretrained", **form)
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize("form", FORMS)
def test_towards_pretrained_pulls_there_and_a_fresh_weight_to_zero(form):
    weights, goal = parameters(), parameters(seed=1)["matrix"].detach()
    fresh = weights["head"] = parameters(seed=2)["matrix"]
    distances = [(weights["matrix"] - goal).abs().sum(), fresh.abs().sum()]
    step(weights, {"matrix": goal}, optimizer="sgd", regularize_towards="pretrained", **form)
    assert (weights["matrix"] - goal).abs().sum() < distances[0]
    assert fresh.abs().sum() < distances[1]


def test_proximal_l1_towards_pretrained_returns_weights_exactly():
    weights, goal = parameters(), parameters(seed=1)["matrix"].detach()
    step(
        weights,
        {"matrix": goal},
        steps=200,
        optimizer="sgd",
        l1_strength=0.3,
        l1_form="proximal",
        regularize_towards="pretrained",
    )
    assert torch.equal(weights["matrix"], goal)


@pytest.mark.parametrize("form", FORMS)
def test_biases_and_unused_weights_are_left_alone(form):
    weights = parameters()
    bias = weights["bias"].detach().clone()
    step(weights, optimizer="sgd", **form)
    assert torch.equal(weights["bias"], bias)


@pytest.mark.parametrize(
    "form", [{"l1_strength": 0.3, "l1_form": "penalty"}, {"l2_strength": 1.0, "l2_form": "coupled"}]
)
def test_a_weight_without_gradient_gets_none(form):
    weights = {"matrix": parameters()["matrix"]}
    hyperparameters = Hyperparameters.model_validate({"l2_strength": 0.0, **form})
    Regularizer(weights, hyperparameters, {}, {"matrix": 1.0}, no_shift).before_step(RATE)
    assert weights["matrix"].grad is None


@pytest.mark.parametrize("name", ["sgd", "adamw", "schedule_free_adamw"])
def test_decoupled_l2_is_at_the_rate_of_the_weights_own_layer(name):
    weights = {"low": parameters()["matrix"], "high": parameters()["matrix"]}
    before = parameters()["matrix"].detach()
    step(weights, factors={"low": 0.25}, optimizer=name, l2_strength=0.3, l2_form="decoupled")
    torch.testing.assert_close(weights["high"].detach(), before * (1 - RATE * 0.3))
    torch.testing.assert_close(weights["low"].detach(), before * (1 - RATE * 0.25 * 0.3))


@pytest.mark.parametrize("towards", ["zero", "pretrained"])
def test_the_threshold_is_at_the_rate_of_the_weights_own_layer(towards):
    weights = {"low": parameters()["matrix"], "high": parameters()["matrix"]}
    before, goal = parameters()["matrix"].detach(), torch.full((4, 5), 0.5)
    step(
        weights,
        dict.fromkeys(weights, goal),
        factors={"low": 0.25},
        optimizer="sgd",
        l1_strength=0.3,
        regularize_towards=towards,
    )
    reference = goal if towards == "pretrained" else torch.zeros(4, 5)
    for name, factor in (("high", 1.0), ("low", 0.25)):
        distance = before - reference
        expected = reference + distance.sign() * (distance.abs() - RATE * factor * 0.3).clamp(min=0)
        assert torch.equal(weights[name], expected)


@pytest.mark.parametrize("form", [FORMS[0], FORMS[2]])
def test_what_is_added_to_gradients_does_not_depend_on_the_layer(form):
    weights = {"low": parameters()["matrix"], "high": parameters()["matrix"]}
    hyperparameters = Hyperparameters.model_validate({"l2_strength": 0.0, **form})
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    Regularizer(weights, hyperparameters, {}, {"low": 0.25, "high": 1.0}, no_shift).before_step(RATE)
    assert torch.equal(weights["low"].grad, weights["high"].grad)
    assert weights["low"].grad.any()


def no_shift(weights: list[torch.Tensor], directions: list[torch.Tensor], amount: float) -> None:
    raise AssertionError("Only decoupled L2 shifts weights.")
