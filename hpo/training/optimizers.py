"""Optimizers: those of the known libraries, never with their own weight decay.

Regularisation is `regularization.py`'s, the same for every optimizer. Hence `adam` and `adamw` take the same step here;
what tells them apart is the form of L2 they come with (`l2_form`): coupled and decoupled.

To add an optimizer: a function that builds it, its entry in `OPTIMIZERS`, its name in `OptimizerName`, and the values
it takes in `APPLIES_TO`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, optim

from hpo.config.hyperparameters import Hyperparameters
from hpo.training.layer_rates import Group
from hpo.training.muon import muon_with_adamw
from hpo.training.schedule_free import averaged, averaging_adamw, shift

Groups = Sequence[Group]


def add_to_weights(_: Any, weights: list[Tensor], directions: list[Tensor], amount: float) -> None:
    """Add `amount` times `directions` to the weights, in place."""
    torch._foreach_add_(weights, directions, alpha=amount)


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A kind of optimizer."""

    description: str
    """What it does, in a short phrase."""
    source: str
    """Who published it."""
    build: Callable[[Groups, Hyperparameters], optim.Optimizer]
    """From the groups of `layer_rates.parameter_groups` and the trial's values to the optimizer."""
    shift: Callable[[Any, list[Tensor], list[Tensor], float], None] = add_to_weights
    """Moves weights of an optimizer, between its steps, by a number times directions of their shapes."""
    evaluating: Callable[[Any], AbstractContextManager[None]] = nullcontext
    """Of an optimizer a context in which its weights are those that are scored and saved."""


# `fused=True` below: a step is one pass over all weights, on a CPU too, where torch's default loops over many small
# operations. Optimizers that have no such form loop over lists of weights on a GPU, by torch's own choice.


def sgd(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build plain gradient descent."""
    return optim.SGD(groups, lr=hyperparameters.learning_rate, fused=True)


def momentum(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build heavy-ball gradient descent, in torch's form: the rate scales the whole velocity."""
    return optim.SGD(groups, lr=hyperparameters.learning_rate, momentum=_applying(hyperparameters.momentum), fused=True)


def nesterov(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Nesterov's accelerated gradient, in torch's form; without momentum it is plain gradient descent."""
    heaviness = _applying(hyperparameters.momentum)
    return optim.SGD(groups, lr=hyperparameters.learning_rate, momentum=heaviness, nesterov=heaviness > 0, fused=True)


def adam(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adam."""
    return optim.Adam(groups, **_of_adam(hyperparameters), fused=True)


def adamw(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build AdamW less its decay, which `l2_form: decoupled` applies."""
    return optim.AdamW(groups, **_of_adam(hyperparameters), weight_decay=0.0, fused=True)


def nadam(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build NAdam, Adam with Nesterov's momentum."""
    return optim.NAdam(groups, **_of_adam(hyperparameters), momentum_decay=_applying(hyperparameters.momentum_decay))


def radam(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build RAdam, Adam whose first steps are held back."""
    return optim.RAdam(groups, **_of_adam(hyperparameters))


def adamax(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build AdaMax, Adam with the largest gradient in place of the second moment."""
    return optim.Adamax(groups, **_of_adam(hyperparameters))


def adagrad(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adagrad."""
    return optim.Adagrad(groups, lr=hyperparameters.learning_rate, eps=_applying(hyperparameters.epsilon), fused=True)


def adadelta(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adadelta; its steps are multiplied by the rate, which in the paper is 1."""
    return optim.Adadelta(groups, **_arguments(hyperparameters, rho="rho", eps="epsilon"))


def adafactor(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adafactor in torch's form: no momentum, a step of at most the rate times the size of the weights."""
    # Torch's default form, the slow one: the fast one holds another copy of the weights, and memory is what it is for.
    return optim.Adafactor(groups, **_arguments(hyperparameters, beta2_decay="decay_rate", d="clip_threshold"))


def rmsprop(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build RMSprop."""
    return optim.RMSprop(groups, **_arguments(hyperparameters, alpha="alpha", eps="epsilon", momentum="momentum"))


def lion(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Lion."""
    from lion_pytorch.foreach import Lion

    built: optim.Optimizer = Lion(groups, lr=hyperparameters.learning_rate, betas=_betas(hyperparameters))
    return built


def schedule_free_adamw(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build schedule-free AdamW."""
    built: optim.Optimizer = averaging_adamw(groups, _of_adam(hyperparameters))
    return built


def muon(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Muon for the hidden matrices with AdamW for all else; without hidden matrices it is AdamW."""
    momentum, newton_schulz_steps = hyperparameters.momentum, hyperparameters.newton_schulz_steps
    return muon_with_adamw(groups, _of_adam(hyperparameters), _applying(momentum), int(_applying(newton_schulz_steps)))


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer("plain gradient descent", "Robbins and Monro 1951", sgd),
    "momentum": Optimizer("heavy-ball gradient descent", "Polyak 1964", momentum),
    "nesterov": Optimizer(
        "gradient descent with momentum that looks ahead", "Nesterov 1983; Sutskever et al. 2013", nesterov
    ),
    "adam": Optimizer("steps scaled by both moments of the gradient; L2 in the gradient", "Kingma and Ba 2015", adam),
    "adamw": Optimizer("Adam with L2 apart from the gradient", "Loshchilov and Hutter 2019", adamw),
    "nadam": Optimizer("Adam with Nesterov's momentum", "Dozat 2016", nadam),
    "radam": Optimizer(
        "Adam whose first steps are held back while its second moment is uncertain", "Liu et al. 2020", radam
    ),
    "adamax": Optimizer(
        "Adam with the largest recent gradient in place of the second moment", "Kingma and Ba 2015", adamax
    ),
    "adagrad": Optimizer("steps scaled by the sum of all squared gradients", "Duchi et al. 2011", adagrad),
    "adadelta": Optimizer("steps scaled by recent gradients and recent steps; rates near 1", "Zeiler 2012", adadelta),
    "adafactor": Optimizer(
        "second moment by rows and columns, little memory; steps relative to the weights",
        "Shazeer and Stern 2018",
        adafactor,
    ),
    "rmsprop": Optimizer("steps scaled by recent squared gradients", "Tieleman and Hinton 2012", rmsprop),
    "lion": Optimizer("the sign of the momentum; rates 3 to 10 times below Adam's", "Chen et al. 2023", lion),
    "schedule_free_adamw": Optimizer(
        "AdamW that averages its weights in place of a falling rate",
        "Defazio et al. 2024",
        schedule_free_adamw,
        shift=shift,
        evaluating=averaged,
    ),
    "muon": Optimizer(
        "orthogonal updates of the layers' matrices, AdamW for all else", "Jordan et al. 2024; Liu et al. 2025", muon
    ),
}


def _arguments(hyperparameters: Hyperparameters, **names: str) -> dict[str, Any]:
    """Return arguments of an optimizer: its rate, and by `names` the hyperparameters that others stand for."""
    given = {argument: _applying(getattr(hyperparameters, name)) for argument, name in names.items()}
    return {"lr": hyperparameters.learning_rate, **given}


def _of_adam(hyperparameters: Hyperparameters) -> dict[str, Any]:
    """Return the arguments that Adam and its kin share."""
    return {**_arguments(hyperparameters, eps="epsilon"), "betas": _betas(hyperparameters)}


def _betas(hyperparameters: Hyperparameters) -> tuple[float, float]:
    return _applying(hyperparameters.beta1), _applying(hyperparameters.beta2)


def _applying(value: float | None) -> float:
    """Return a field that applies to the trial's optimizer, and so is never None."""
    assert value is not None
    return value
