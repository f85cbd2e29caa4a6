"""Optimizer step: clipping, regularisation and update of a trial, at the scheduled rate.

With d = w - reference, r the weight's learning rate and s the strength, in the order of one step:

    L1 penalty     gradient += s * sign(d)               the gradient of s * |d| in the loss
    L2 coupled     gradient += s * d                     the gradient of s/2 * d^2; torch's weight_decay in SGD and Adam
    L2 decoupled   w -= r * s * d                        torch's weight_decay in AdamW
    (the optimizer's step)
    L1 proximal    d <- sign(d) * max(|d| - r * s, 0)    soft threshold, exact zeros (Daubechies et al. 2004)

All come after gradient clipping, like torch's own weight_decay, so that only the gradient of the data is clipped. The
rate of a weight is the scheduled one times its factor; an optimizer's own scaling of single weights applies only to its
steps. Norm weights, which have fewer than two dimensions, and biases are left out (by name, as in `transformers`,
because the relative biases of MPNet and T5 have two dimensions). Newly initialised weights have no pretrained value, so
they are regularised towards zero, as in L2-SP (Li et al. 2018).
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.model.trial_model import TrialModel
from hpo.training.optimizers import OPTIMIZERS, parameter_groups, rate_factors
from hpo.training.schedules import Plateau, factor, warmup_steps

Regularized = list[tuple[nn.Parameter, Tensor | None]]
"""Weights, each with the target of its regularisation; None for zero."""


def is_regularized(name: str, weight: Tensor) -> bool:
    """Return true if L1 and L2 apply to a weight: not to biases and norms."""
    return weight.ndim >= 2 and "bias" not in name


class Regularizer:
    """L1 and L2 regularisation of a trial's trained parameters."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        hyperparameters: Hyperparameters,
        pretrained: Mapping[str, Tensor],
        factors: Mapping[str, float],
        shift: Callable[[list[Tensor], list[Tensor], float], Any],
    ) -> None:
        """Choose the weights that are regularised.

        Args:
            parameters: name -> trained parameter.
            hyperparameters: strengths, forms and direction.
            pretrained: name -> pretrained value on the parameter's device; missing names are regularised towards zero.
                Read only if `regularize_towards` is `pretrained`.
            factors: name -> factor of the learning rate for that parameter.
            shift: adds a multiple of directions to weights, in the way that their optimizer requires.
        """
        self._l1, self._l1_form = hyperparameters.l1_strength, hyperparameters.l1_form
        self._l2, self._l2_form = hyperparameters.l2_strength, hyperparameters.l2_form
        self._shift = shift
        towards_zero = hyperparameters.regularize_towards == "zero"
        # Weights of one rate together, because an operation over a list of weights takes one number for all.
        self._weights: dict[float, Regularized] = {}
        for name, weight in parameters.items():
            if is_regularized(name, weight):
                reference = None if towards_zero else pretrained.get(name)
                self._weights.setdefault(factors[name], []).append((weight, reference))

    @torch.no_grad()
    def before_step(self, rate: float) -> None:
        """Change gradients and weights before the optimizer's step at this learning rate."""
        if not (self._l1 or self._l2):
            return
        for share, weights in self._weights.items():
            # A weight that the model did not use has no gradient; torch's optimizers skip such weights too.
            used = [(weight, reference) for weight, reference in weights if weight.grad is not None]
            if used:
                self._apply_l1_and_l2(used, rate * share)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Threshold the weights after the optimizer's step at this learning rate."""
        if not self._l1 or self._l1_form != "proximal":
            return
        for share, weights in self._weights.items():
            for weight, reference in weights:
                if weight.grad is not None:
                    distance = weight if reference is None else weight - reference
                    near = nn.functional.softshrink(distance, rate * share * self._l1)
                    weight.copy_(near if reference is None else reference + near)

    def _apply_l1_and_l2(self, used: Regularized, rate: float) -> None:
        weights: list[Tensor] = [weight for weight, _ in used]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self._l2 and self._l2_form == "coupled":
            torch._foreach_add_(gradients, _distances(used), alpha=self._l2)
        if self._l1 and self._l1_form == "penalty":
            torch._foreach_add_(gradients, list(torch._foreach_sign(_distances(used))), alpha=self._l1)
        if self._l2 and self._l2_form == "decoupled":
            self._shift(weights, _distances(used), -rate * self._l2)


def _distances(used: Regularized) -> list[Tensor]:
    """Return the difference of each weight from its target."""
    return [weight if reference is None else weight - reference for weight, reference in used]


CHECK_EVERY = 10
"""Steps between checks that the loss is finite; each check waits for the device."""


class Diverged(ArithmeticError):
    """Error: the loss or a gradient is no longer finite."""


class OptimizerStep:
    """A trial's unmodified optimizer over its model, with schedule, clipping and regularisation."""

    def __init__(self, model: TrialModel, total_steps: int) -> None:
        """Build the optimizer over the trained weights, for that many steps."""
        self.model = model
        hyperparameters, backbone, self.parameters = model.hyperparameters, model.backbone, model.parameters
        self._hyperparameters = hyperparameters
        self.total_steps = total_steps
        self.taken = 0
        """Steps taken."""
        self.rate = 0.0
        """Learning rate of the last step, before the factors of layers and of new weights."""
        self._trained: list[nn.Parameter] = list(self.parameters.values())
        decay, head_rate = hyperparameters.layerwise_rate_decay, hyperparameters.head_rate
        factors = rate_factors(backbone.network, self.parameters, decay, backbone.fresh, head_rate)
        self._kind = OPTIMIZERS[hyperparameters.optimizer]
        groups = parameter_groups(backbone.network, self.parameters, factors)
        self._optimizer = self._kind.build(groups, hyperparameters)
        needs_pretrained = hyperparameters.regularize_towards == "pretrained" and (
            hyperparameters.l1_strength or hyperparameters.l2_strength
        )
        reference = model.pretrained() if needs_pretrained else {}
        shift = partial(self._kind.shift, self._optimizer)
        self._regularizer = Regularizer(self.parameters, hyperparameters, reference, factors, shift)
        self._plateau = Plateau(hyperparameters) if hyperparameters.schedule == "reduce_on_plateau" else None
        # Sums stay on the device. A NaN makes its sum NaN for good, so a later check finds it.
        self._losses = torch.zeros((), device=backbone.device)
        self._norms = torch.zeros((), device=backbone.device)
        self._summed = 0
        self.state_bytes = 3 * sum(weight.nbytes for weight in self._trained)
        """Approximate size of `state` in bytes: the weights, and two more numbers for each in most optimizers."""

    def take(self, loss: Tensor) -> None:
        """Take the step of a batch with this mean loss, whose gradients are computed.

        Raises:
            Diverged: at a step at which the loss is checked.
        """
        hyperparameters = self._hyperparameters
        scheduled = factor(self.taken, self.total_steps, hyperparameters)
        self.rate = hyperparameters.learning_rate * (scheduled * self._plateau.factor if self._plateau else scheduled)
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate * group["rate_factor"]
        if hyperparameters.max_grad_norm is not None:
            self._norms += nn.utils.clip_grad_norm_(self._trained, hyperparameters.max_grad_norm, foreach=True)
        self._regularizer.before_step(self.rate)
        self._optimizer.step()
        self._regularizer.after_step(self.rate)
        self._optimizer.zero_grad(set_to_none=True)
        self._losses += loss
        self._summed += 1
        self.taken += 1
        if self.taken % CHECK_EVERY == 0:
            self.mean_loss()

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context in which the weights are those to be scored and saved, such as their average."""
        self.model.mount()
        return self._kind.evaluating(self._optimizer)

    def observe(self, score: float) -> None:
        """Use the score of a full evaluation, higher is better: it may cut the rate after warm-up."""
        if self._plateau and self.taken >= warmup_steps(self._hyperparameters, self.total_steps):
            self._plateau.observe(score)

    def state(self) -> dict[str, Any]:
        """Return the state that the next step depends on, except the random state; tensors are not copied."""
        return {
            "taken": self.taken,
            "rate": self.rate,
            "weights": {name: weight.detach() for name, weight in self.parameters.items()},
            "optimizer": self._optimizer.state_dict(),
            "plateau": self._plateau.state() if self._plateau else None,
            "losses": self._losses,
            "norms": self._norms,
            "summed": self._summed,
        }

    @torch.no_grad()
    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned for an equal trial; tensors are copied."""
        self.taken, self.rate, self._summed = state["taken"], state["rate"], state["summed"]
        self.model.load(state["weights"])
        self._optimizer.load_state_dict(_owned(state["optimizer"], self.model.backbone.device))
        if self._plateau:
            self._plateau.resume(state["plateau"])
        self._losses.copy_(state["losses"])
        self._norms.copy_(state["norms"])

    def mean_loss(self) -> float:
        """Return the mean loss since the last `forget_losses`, nats per example; waits for the device.

        Raises:
            Diverged: a loss or the norm of the gradients was not finite.
        """
        losses, norms = float(self._losses), float(self._norms)
        for name, value in (("loss", losses), ("norm of the gradients", norms)):
            if not math.isfinite(value):
                raise Diverged(f"The {name} was no longer a number by step {self.taken}.")
        return losses / self._summed if self._summed else 0.0

    def forget_losses(self) -> None:
        """Restart the mean loss."""
        self._losses.zero_()
        self._norms.zero_()
        self._summed = 0


def _owned(state: Any, device: torch.device) -> Any:
    """Return an optimizer's state that, loaded on `device`, shares no memory with this one, such as pages of a file.

    Optimizers copy what they load to a GPU, except step counts; on a CPU they copy nothing.
    """
    if isinstance(state, Tensor):
        return state.clone() if device.type == "cpu" or state.dim() == 0 else state
    if isinstance(state, Mapping):
        return {name: _owned(value, device) for name, value in state.items()}
    return [_owned(value, device) for value in state] if isinstance(state, list) else state
