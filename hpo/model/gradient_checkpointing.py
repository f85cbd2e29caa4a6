"""Gradient checkpointing: the backward pass recomputes a layer's activations instead of storing them.

Sublinear memory for a third more computation (Chen et al. 2016). transformers does this only in training mode, and
frozen layers are in evaluation mode, so the layers are wrapped here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hpo.model.randomness import RandomState


class GradientCheckpointing:
    """A switch for the transformer layers of a network."""

    def __init__(self, layers: nn.ModuleList) -> None:
        """Start switched off, for all these layers."""
        self._layers = list(layers)
        # A library may have replaced `forward` on the instance; that replacement is restored later.
        self._forwards = [layer.forward for layer in layers]
        self._is_on = False
        self.kernels: Callable[[], AbstractContextManager[object]] = nullcontext
        """Context in which the layers of a pass compute; the backward pass has left it, and enters it anew."""
        self.randoms: Sequence[RandomState] = ()
        """Generators of the trials whose rows share a pass; empty for a single trial, which uses torch's own."""

    def switch(self, on: bool) -> None:
        """Switch it on or off for later passes."""
        if on is self._is_on:
            return
        self._is_on = on
        for layer, forward in zip(self._layers, self._forwards, strict=True):
            layer.forward = self.of(forward)

    def of(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the `forward` of a layer, with its activations recomputed if this is on."""
        return partial(self._checkpointed, forward) if self._is_on else forward

    def _checkpointed(self, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        states = [random.state for random in self.randoms]
        again = partial(_repeated, self.randoms, states, self.kernels)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again()), **named)


@contextmanager
def _repeated(
    randoms: Sequence[RandomState],
    states: Sequence[list[torch.Tensor]],
    kernels: Callable[[], AbstractContextManager[object]],
) -> Iterator[None]:
    """Repeat the same dropout masks by the same kernels, and leave the generators unchanged."""
    now = [random.state for random in randoms]
    for random, state in zip(randoms, states, strict=True):
        random.state = state
    try:
        with kernels():
            yield
    finally:
        for random, state in zip(randoms, now, strict=True):
            random.state = state
