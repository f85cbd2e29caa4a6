"""Optimizers of torch and other libraries, Muon and schedule-free AdamW; layer-wise learning rates.

`optimizer_step.py` regularises in the same way for every optimizer. Hence `adam` and `adamw` take the same step here;
they differ only in the usual form of L2 (`l2_form`): coupled and decoupled.

Muon trains the hidden matrices, and AdamW all else (embeddings, pooler, head, biases and norms), at one learning rate:
a matrix's update is scaled to the root mean square of AdamW's (Liu et al. 2025).

Schedule-free AdamW (Defazio et al. 2024): in training the weights are y, and `optimizer.state[weight]["z"]` is z; x = y
+ (1 - 1/beta1) * (z - y) is scored and saved. The warm-up of the rate is that of `schedules.py`, not the library's.

Layer-wise rates: with decay d and n transformer layers, counted from 0 at the bottom, the rate of layer i is multiplied
by d**(n - i), that of the embeddings and all else below the layers by d**(n + 1), and that of the head and all above
them by 1. This is the convention of BEiT (Bao et al. 2022); the idea is Howard and Ruder's (2018), ELECTRA's form Clark
et al.'s (2020).

The factor of new weights is multiplied on top. Random weights must move further than pretrained ones, so they get a
higher rate: discriminative fine-tuning (Howard and Ruder 2018), and `lr_mult` of AutoGluon's heads, which is 1 by
default.

To add an optimizer: a function that builds it, its entry in `OPTIMIZERS`, its name in `OptimizerName`, and its
hyperparameters in `APPLIES_TO`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.optional_packages import refuse_missing
from hpo.model.methods import heights

Group = dict[str, Any]
"""A torch parameter group: `params`, a list of parameters; `rate_factor`, their factor of the trial's rate; `hidden`,
true for matrices of the transformer layers."""


def rate_factors(
    network: Any, names: Iterable[str], decay: float, fresh: Collection[str] = frozenset(), head_rate: float = 1.0
) -> dict[str, float]:
    """Return parameter name -> factor of the trial's learning rate, above 0.

    Args:
        network: a transformers model.
        names: of its parameters.
        decay: factor of the rate at each layer going down, above 0 and at most 1.
        fresh: names of new weights.
        head_rate: additional factor of their rate, above 0.
    """
    found = heights(network)
    top = max(found.values())
    return {name: decay ** (top - found[name]) * (head_rate if name in fresh else 1.0) for name in names}


def parameter_groups(network: Any, parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float]) -> list[Group]:
    """Return parameter groups for an optimizer: one per learning rate, with hidden matrices in groups of their own.

    Args:
        network: a transformers model.
        parameters: name -> trained parameter of it.
        factors: name -> its factor, by `rate_factors`.
    """
    found = heights(network)
    top = max(found.values())
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        hidden = parameter.ndim == 2 and 0 < found[name] < top
        groups.setdefault((factors[name], hidden), []).append(parameter)
    return [
        {"params": members, "rate_factor": factor, "hidden": hidden} for (factor, hidden), members in groups.items()
    ]


class JointOptimizer(optim.Optimizer):
    """Several optimizers over separate parameters, which step as one."""

    def __init__(self, parts: Sequence[optim.Optimizer]) -> None:
        self._parts = tuple(parts)
        # The parts' own groups, so that writing into one changes its part.
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take a step of each part."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all parts, as `load_state_dict` takes it."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of an optimizer built alike."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def muon_with_adamw(
    groups: Sequence[Group], of_adam: Mapping[str, Any], momentum: float, newton_schulz_steps: int
) -> JointOptimizer:
    """Build torch's Muon over the `hidden` groups and AdamW over the others, each only if it has parameters.

    Args:
        groups: from `parameter_groups`.
        of_adam: torch's `lr`, `betas` and `eps` of AdamW; the rate is Muon's too.
        momentum: of Muon.
        newton_schulz_steps: of Muon, to orthogonalise a matrix approximately.
    """
    hidden = [group for group in groups if group["hidden"]]
    others = [group for group in groups if not group["hidden"]]
    parts: list[optim.Optimizer] = []
    if hidden:
        as_adamw: dict[str, Any] = {"lr": of_adam["lr"], "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        parts.append(optim.Muon(hidden, momentum=momentum, ns_steps=newton_schulz_steps, **as_adamw))
    if others:
        parts.append(optim.AdamW(others, **of_adam, weight_decay=0.0, fused=True))
    return JointOptimizer(parts)


def averaging_adamw(groups: Sequence[Group], of_adam: Mapping[str, Any]) -> Any:
    """Build the optimizer, in training mode, with Adam's rate, betas and epsilon."""
    refuse_missing("schedulefree", "Optimizer schedule_free_adamw")
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(groups, **of_adam, weight_decay=0.0, warmup_steps=0)
    # The library creates both in a weight's first step; `shift` needs the iterate before it.
    for group in optimizer.param_groups:
        for weight in group["params"]:
            optimizer.state[weight]["z"] = weight.detach().clone()
            optimizer.state[weight]["exp_avg_sq"] = torch.zeros_like(weight)
    optimizer.train()
    return optimizer


@torch.no_grad()
def shift(optimizer: Any, weights: list[Tensor], directions: list[Tensor], amount: float) -> None:
    """Move z by `amount` times `directions` and y by (1 - beta1) of that, so that x does not change.

    Before a step, with the weights as directions and minus rate times strength as amount, this is the library's own
    `weight_decay`: with c the new share of z in the average, y moves in all by 1 - beta1 * (1 - c) of it.

    Args:
        optimizer: made by `schedule_free_adamw`.
        weights: some of its weights, in training mode.
        directions: for each weight a tensor of its shape; may be the weight itself.
        amount: factor of the directions.
    """
    beta1 = optimizer.param_groups[0]["betas"][0]
    # The iterates first, because a direction that is the weight itself must be unchanged.
    torch._foreach_add_([optimizer.state[weight]["z"] for weight in weights], directions, alpha=amount)
    torch._foreach_add_(weights, directions, alpha=(1 - beta1) * amount)


@contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """Set the weights to the average x within the block, and restore them to the last bit afterwards."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    # The library would recompute y from x, with rounding. Between steps there are no gradients, so the copy adds
    # nothing to peak memory.
    before = [weight.detach().clone() for weight in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            torch._foreach_copy_(weights, before)


Groups = Sequence[Group]


def add_to_weights(_: Any, weights: list[Tensor], directions: list[Tensor], amount: float) -> None:
    """Add `amount` times `directions` to the weights, in place."""
    torch._foreach_add_(weights, directions, alpha=amount)


@dataclass(frozen=True, slots=True)
class Optimizer:
    """A kind of optimizer."""

    description: str
    """Short description."""
    source: str
    """Publication or library."""
    build: Callable[[Groups, Hyperparameters], optim.Optimizer]
    """Function from the groups of `parameter_groups` and the trial's values to the optimizer."""
    shift: Callable[[Any, list[Tensor], list[Tensor], float], None] = add_to_weights
    """Adds a multiple of directions to weights of an optimizer, between its steps."""
    evaluating: Callable[[Any], AbstractContextManager[None]] = nullcontext
    """Context in which an optimizer's weights are those that are scored and saved."""
    is_elementwise: bool = True
    """True if it does not move rows of embeddings without gradients, and they do not change its steps of others."""


# `fused=True` below: a step is one pass over all weights, also on a CPU, where torch's default loops over many small
# operations. Optimizers without a fused form loop over lists of weights on a GPU, as torch chooses.


def sgd(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build plain gradient descent."""
    return optim.SGD(groups, lr=hyperparameters.learning_rate, fused=True)


def momentum(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build heavy-ball gradient descent, in torch's form: the rate scales the whole velocity."""
    return optim.SGD(groups, lr=hyperparameters.learning_rate, momentum=_applying(hyperparameters.momentum), fused=True)


def nesterov(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Nesterov's accelerated gradient, in torch's form; with momentum 0 it is plain gradient descent."""
    factor = _applying(hyperparameters.momentum)
    return optim.SGD(groups, lr=hyperparameters.learning_rate, momentum=factor, nesterov=factor > 0, fused=True)


def adam(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adam."""
    return optim.Adam(groups, **_of_adam(hyperparameters), fused=True)


def adamw(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build AdamW without its decay, which `l2_form: decoupled` applies."""
    return optim.AdamW(groups, **_of_adam(hyperparameters), weight_decay=0.0, fused=True)


def nadam(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build NAdam, Adam with Nesterov's momentum."""
    return optim.NAdam(groups, **_of_adam(hyperparameters), momentum_decay=_applying(hyperparameters.momentum_decay))


def radam(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build RAdam, Adam with a rectified variance, which makes smaller first steps."""
    return optim.RAdam(groups, **_of_adam(hyperparameters))


def adamax(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build AdaMax, Adam with the infinity norm of past gradients instead of the second moment."""
    return optim.Adamax(groups, **_of_adam(hyperparameters))


def adagrad(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adagrad."""
    return optim.Adagrad(groups, lr=hyperparameters.learning_rate, eps=_applying(hyperparameters.epsilon), fused=True)


def adadelta(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adadelta; its steps are multiplied by the rate, which in the paper is 1."""
    return optim.Adadelta(groups, **_arguments(hyperparameters, rho="rho", eps="epsilon"))


def adafactor(groups: Groups, hyperparameters: Hyperparameters) -> optim.Optimizer:
    """Build Adafactor in torch's form: no momentum, a step of at most the rate times the size of the weights."""
    # Torch's default, slow form: the fast one holds another copy of the weights, and Adafactor is used to save memory.
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
    """Build Muon for the hidden matrices and AdamW for all else; without hidden matrices it is AdamW."""
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
        is_elementwise=False,
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
    """Return arguments of an optimizer: its rate, and hyperparameters under the optimizer's `names`."""
    given = {argument: _applying(getattr(hyperparameters, name)) for argument, name in names.items()}
    return {"lr": hyperparameters.learning_rate, **given}


def _of_adam(hyperparameters: Hyperparameters) -> dict[str, Any]:
    """Return the arguments that Adam and its variants share."""
    return {**_arguments(hyperparameters, eps="epsilon"), "betas": _betas(hyperparameters)}


def _betas(hyperparameters: Hyperparameters) -> tuple[float, float]:
    return _applying(hyperparameters.beta1), _applying(hyperparameters.beta2)


def _applying(value: float | None) -> float:
    """Return a field that applies to the trial's optimizer, and so is never None."""
    assert value is not None
    return value
