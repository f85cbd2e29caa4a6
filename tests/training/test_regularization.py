import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.training.optimizers import OPTIMIZERS
from hpo.training.regularization import Regularizer, soft_threshold

RATE = 0.1


def parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "matrix": torch.nn.Parameter(torch.randn(4, 5, generator=generator)),
        "bias": torch.nn.Parameter(torch.randn(4, generator=generator)),
    }


def step(weights: dict[str, torch.nn.Parameter], pretrained=None, gradient=None, steps: int = 1, **values: object):
    """Take steps of our own: gradients as given (zero if not), then regularizer, optimizer, regularizer."""
    hyperparameters = Hyperparameters.model_validate({"learning_rate": RATE, "l2_strength": 0.0, **values})
    regularizer = Regularizer(weights, hyperparameters, pretrained or {})
    optimizer = OPTIMIZERS[hyperparameters.optimizer](list(weights.values()), hyperparameters)
    for number in range(steps):
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight) if gradient is None else gradient(weight, number)
        regularizer.before_step(RATE)
        optimizer.step()
        regularizer.after_step(RATE)


def some_gradient(weight: torch.Tensor, number: int) -> torch.Tensor:
    return torch.sin(weight.detach() * (number + 1))


def torchs_own(optimizer_class: type, steps: int = 6, **options: float) -> torch.Tensor:
    weight = parameters()["matrix"]
    optimizer = optimizer_class([weight], lr=RATE, **options)
    for number in range(steps):
        weight.grad = some_gradient(weight, number)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("sgd", torch.optim.SGD, {}),
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
        ("adam", torch.optim.Adam, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
    ],
)
def test_coupled_l2_is_torchs_own_weight_decay(name, theirs, options):
    weights = parameters()
    step(weights, gradient=some_gradient, steps=6, optimizer=name, l2_strength=0.3, l2_form="coupled")
    torch.testing.assert_close(weights["matrix"].detach(), torchs_own(theirs, weight_decay=0.3, **options))


def test_decoupled_l2_is_torchs_own_adamw():
    weights = parameters()
    step(weights, gradient=some_gradient, steps=6, optimizer="adamw", l2_strength=0.3, l2_form="decoupled")
    torch.testing.assert_close(weights["matrix"].detach(), torchs_own(torch.optim.AdamW, weight_decay=0.3))


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


def test_soft_threshold_known_answers():
    values = torch.tensor([-2.0, -0.5, 0.0, 0.25, 0.5, 3.0])
    assert soft_threshold(values, 0.5).tolist() == [-1.5, 0.0, 0.0, 0.0, 0.0, 2.5]


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
    Regularizer(weights, hyperparameters, {}).before_step(RATE)
    assert weights["matrix"].grad is None
