"""Regularisation of weights: L1 and L2, each in its two honest forms, towards zero or the pretrained weights.

With d = w - reference, r the weight's learning rate and s the strength, in the order of one step:

    L1 penalty     gradient += s * sign(d)               the gradient of s * |d| in the loss
    L2 coupled     gradient += s * d                     the gradient of s/2 * d^2; torch's weight_decay in SGD and Adam
    L2 decoupled   w -= r * s * d                        torch's weight_decay in AdamW
    (the optimizer's step)
    L1 proximal    d <- sign(d) * max(|d| - r * s, 0)    soft threshold, exact zeros (Daubechies et al. 2004)

All come after gradient clipping, where torch's own weight_decay stands: the clip bounds what the data asks for. A
weight's rate is the scheduled one times its factor (`layer_rates.py`); what an optimizer further scales its steps by,
weight by weight, holds for its steps alone.
Biases (of two dimensions too, such as the relative ones of MPNet and T5: `transformers` leaves them out by their name)
and norm weights, which have fewer than two dimensions, are left out. Freshly initialised weights have no
pretrained value: they are pulled towards zero (L2-SP, Li et al. 2018, treats its new layer so).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters

Held = list[tuple[nn.Parameter, Tensor | None]]
"""Weights, each with what it is pulled to; None for zero."""


def is_held(name: str, weight: Tensor) -> bool:
    """Return whether L1 and L2 hold a weight: no bias and no norm."""
    return weight.ndim >= 2 and "bias" not in name


class Regularizer:
    """What the hyperparameters ask for, over one trial's trained parameters."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        hyperparameters: Hyperparameters,
        pretrained: Mapping[str, Tensor],
        factors: Mapping[str, float],
        shift: Callable[[list[Tensor], list[Tensor], float], Any],
    ) -> None:
        """Hold the weights that are regularised.

        Args:
            parameters: name -> trained parameter.
            hyperparameters: the strengths, forms and direction.
            pretrained: name -> pretrained value on the parameter's device; a name that is absent is pulled to zero.
                Read only where `regularize_towards` is `pretrained`.
            factors: name -> what the learning rate is multiplied by for that parameter.
            shift: moves weights by a number times directions of their shapes, as their optimizer wants it done.
        """
        self._l1, self._l1_form = hyperparameters.l1_strength, hyperparameters.l1_form
        self._l2, self._l2_form = hyperparameters.l2_strength, hyperparameters.l2_form
        self._shift = shift
        towards_zero = hyperparameters.regularize_towards == "zero"
        # Those of one rate together: an operation over a list of weights takes one number for all.
        self._held: dict[float, Held] = {}
        for name, weight in parameters.items():
            if is_held(name, weight):
                reference = None if towards_zero else pretrained.get(name)
                self._held.setdefault(factors[name], []).append((weight, reference))

    @torch.no_grad()
    def before_step(self, rate: float) -> None:
        """Change gradients and weights ahead of the optimizer's step at this learning rate."""
        if not (self._l1 or self._l2):
            return
        for factor, held in self._held.items():
            # A weight that the model did not use has no gradient; torch's optimizers leave such weights alone as well.
            used = [(weight, reference) for weight, reference in held if weight.grad is not None]
            if used:
                self._pull(used, rate * factor)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Threshold the weights after the optimizer's step at this learning rate."""
        if not self._l1 or self._l1_form != "proximal":
            return
        for factor, held in self._held.items():
            threshold = rate * factor * self._l1
            for weight, reference in held:
                if weight.grad is None:
                    continue
                if reference is None:
                    weight.copy_(soft_threshold(weight, threshold))
                else:
                    weight.copy_(reference + soft_threshold(weight - reference, threshold))

    def _pull(self, used: Held, rate: float) -> None:
        weights: list[Tensor] = [weight for weight, _ in used]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self._l2 and self._l2_form == "coupled":
            torch._foreach_add_(gradients, _distances(used), alpha=self._l2)
        if self._l1 and self._l1_form == "penalty":
            torch._foreach_add_(gradients, list(torch._foreach_sign(_distances(used))), alpha=self._l1)
        if self._l2 and self._l2_form == "decoupled":
            self._shift(weights, _distances(used), -rate * self._l2)


def _distances(used: Held) -> list[Tensor]:
    """Return how far each weight stands from where it is pulled."""
    return [weight if reference is None else weight - reference for weight, reference in used]


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Return `values` moved towards zero by `threshold`, stopping at exactly zero."""
    return nn.functional.softshrink(values, threshold)
