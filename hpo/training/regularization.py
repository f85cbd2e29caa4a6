"""How weights are held back: L1 and L2, each in its two honest forms, towards zero or the pretrained weights.

With d = w - reference, r the scheduled learning rate and s the strength, in the order of one step:

    L1 penalty     gradient += s * sign(d)               the gradient of s * |d| in the loss
    L2 coupled     gradient += s * d                     the gradient of s/2 * d^2; torch's weight_decay in SGD and Adam
    L2 decoupled   w -= r * s * d                        torch's weight_decay in AdamW
    (the optimizer's step)
    L1 proximal    d <- sign(d) * max(|d| - r * s, 0)    soft threshold, exact zeros (Daubechies et al. 2004)

All come after gradient clipping, where torch's own weight_decay stands: the clip bounds what the data asks for. The
proximal threshold uses the scheduled rate for every weight, also below an optimizer that scales rates one by one.
Biases and norm weights, which have fewer than two dimensions, are left out. Freshly initialised weights have no
pretrained value: they are pulled towards zero (L2-SP, Li et al. 2018, treats its new layer so).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters


class Regularizer:
    """What the hyperparameters ask for, over one trial's trained parameters."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        hyperparameters: Hyperparameters,
        pretrained: Mapping[str, Tensor],
    ) -> None:
        """Hold the weights that are regularised.

        Args:
            parameters: name -> trained parameter.
            hyperparameters: the strengths, forms and direction.
            pretrained: name -> pretrained value on the parameter's device; a name that is absent is pulled to zero.
                Read only where `regularize_towards` is `pretrained`.
        """
        self._hyperparameters = hyperparameters
        matrices = {name: parameter for name, parameter in parameters.items() if parameter.ndim >= 2}
        self._weights: list[Tensor] = list(matrices.values())
        self._references: list[Tensor] | None = None
        if hyperparameters.regularize_towards == "pretrained":
            self._references = [pretrained.get(name, torch.zeros_like(w)) for name, w in matrices.items()]

    @torch.no_grad()
    def before_step(self, rate: float) -> None:
        """Change gradients and weights ahead of the optimizer's step at this learning rate."""
        strength, form = self._hyperparameters.l2_strength, self._hyperparameters.l2_form
        if strength and form == "coupled":
            self._add_to_gradients(self._distances(), strength)
        if self._hyperparameters.l1_strength and self._hyperparameters.l1_form == "penalty":
            signs = list(torch._foreach_sign(self._distances()))
            self._add_to_gradients(signs, self._hyperparameters.l1_strength)
        if strength and form == "decoupled":
            self._shrink(rate * strength)

    @torch.no_grad()
    def after_step(self, rate: float) -> None:
        """Threshold the weights after the optimizer's step at this learning rate."""
        if self._hyperparameters.l1_strength and self._hyperparameters.l1_form == "proximal":
            threshold = rate * self._hyperparameters.l1_strength
            if self._references is None:
                for weight in self._weights:
                    weight.copy_(soft_threshold(weight, threshold))
            else:
                for weight, reference in zip(self._weights, self._references, strict=True):
                    weight.copy_(reference + soft_threshold(weight - reference, threshold))

    def _distances(self) -> list[Tensor]:
        if self._references is None:
            return self._weights
        return list(torch._foreach_sub(self._weights, self._references))

    def _add_to_gradients(self, pulls: list[Tensor], strength: float) -> None:
        # A parameter the model did not use has no gradient; torch's optimizers leave such weights alone as well.
        pairs = [(w.grad, pull) for w, pull in zip(self._weights, pulls, strict=True) if w.grad is not None]
        torch._foreach_add_([grad for grad, _ in pairs], [pull for _, pull in pairs], alpha=strength)

    def _shrink(self, share: float) -> None:
        if self._references is None:
            torch._foreach_mul_(self._weights, 1.0 - share)
        else:
            torch._foreach_add_(self._weights, self._distances(), alpha=-share)


def soft_threshold(values: Tensor, threshold: float) -> Tensor:
    """Return `values` moved towards zero by `threshold`, stopping at exactly zero."""
    return nn.functional.softshrink(values, threshold)
