"""Regularisation: L1 and L2, each in its two forms, towards zero or the pretrained weights.

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

Regularized = list[tuple[nn.Parameter, Tensor | None]]
"""Weights, each with what it is pulled to; None for zero."""


def is_regularized(name: str, weight: Tensor) -> bool:
    """Return whether L1 and L2 apply to a weight: no bias and no norm."""
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
        """Choose the weights that are regularised.

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
        self._weights: dict[float, Regularized] = {}
        for name, weight in parameters.items():
            if is_regularized(name, weight):
                reference = None if towards_zero else pretrained.get(name)
                self._weights.setdefault(factors[name], []).append((weight, reference))

    @torch.no_grad()
    def before_step(self, rate: float) -> None:
        """Change gradients and weights ahead of the optimizer's step at this learning rate."""
        if not (self._l1 or self._l2):
            return
        for factor, weights in self._weights.items():
            # A weight that the model did not use has no gradient; torch's optimizers leave such weights alone as well.
            used = [(weight, reference) for weight, reference in weights if weight.grad is not None]
            if used:
                self._pull(used, rate * factor)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Threshold the weights after the optimizer's step at this learning rate."""
        if not self._l1 or self._l1_form != "proximal":
            return
        for factor, weights in self._weights.items():
            for weight, reference in weights:
                if weight.grad is not None:
                    distance = weight if reference is None else weight - reference
                    near = nn.functional.softshrink(distance, rate * factor * self._l1)
                    weight.copy_(near if reference is None else reference + near)

    def _pull(self, used: Regularized, rate: float) -> None:
        weights: list[Tensor] = [weight for weight, _ in used]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if self._l2 and self._l2_form == "coupled":
            torch._foreach_add_(gradients, _distances(used), alpha=self._l2)
        if self._l1 and self._l1_form == "penalty":
            torch._foreach_add_(gradients, list(torch._foreach_sign(_distances(used))), alpha=self._l1)
        if self._l2 and self._l2_form == "decoupled":
            self._shift(weights, _distances(used), -rate * self._l2)


def _distances(used: Regularized) -> list[Tensor]:
    """Return how far each weight stands from where it is pulled."""
    return [weight if reference is None else weight - reference for weight, reference in used]
