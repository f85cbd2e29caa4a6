"""Random state and dropout of a trial: its own generators, isolated from all others in the process.

Encoders hold their dropouts as `nn.Dropout`; many decoders hold the dropout of attention weights as a number.
"""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpo.errors import ModelError

OF_ATTENTION_WEIGHTS = ("dropout", "attention_dropout", "attn_dropout", "attn_pdrop", "attn_dropout_p", "dropout_prob")
"""Names of this dropout in transformers' attention modules; their `resid_dropout`, `out_drop`, `pos_dropout` and
`output_dropout` are of hidden states."""


Site = tuple[nn.Module, str]
"""Location of a dropout probability in a model: a module and its attribute."""


class Dropouts:
    """Every dropout of a model; created while they have the model's own values."""

    def __init__(self, network: Any) -> None:
        self._model = type(network).__name__
        self._layers: list[Site] = [(module, "p") for module in network.modules() if isinstance(module, nn.Dropout)]
        self._attention = [
            site for module in network.modules() if _is_attention(module) for site in _attention_sites(module)
        ]
        self._own = {(module, name): getattr(module, name) for module, name in (*self._layers, *self._attention)}

    def put(self, probability: float | None, attention: float | None = None) -> None:
        """Set every dropout layer to `probability`, and the dropout of attention weights to `attention`.

        Args:
            probability: in [0, 1); None for the model's own.
            attention: in [0, 1); None for `probability` if it is a layer, or the model's own if it is a number.

        Raises:
            ModelError: the model has no such dropout.
        """
        _set(self._own)
        if probability is not None:
            self.refuse()
            _set(dict.fromkeys(self._layers, probability))
        if attention is not None:
            self.refuse_attention()
            _set(dict.fromkeys(self._attention, attention))

    def refuse(self) -> None:
        """Raise a `ModelError` if the model has no dropout layers."""
        if not self._layers:
            raise ModelError(
                f"dropout is given, but {self._model} has no dropout layers; leave dropout out of the space."
            )

    def refuse_attention(self) -> None:
        """Raise a `ModelError` if the model has no dropout of attention weights."""
        if not self._attention:
            raise ModelError(
                f"attention_dropout is given, but {self._model} has no dropout of attention weights that is known; "
                "leave attention_dropout out of the space."
            )


def _set(probabilities: Mapping[Site, float]) -> None:
    for (module, name), probability in probabilities.items():
        setattr(module, name, probability)


def _is_attention(module: nn.Module) -> bool:
    """Return true if it computes attention itself; T5LayerSelfAttention only contains such a module."""
    return _named_attention(module) and not any(_named_attention(child) for child in module.children())


def _named_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def _attention_sites(module: nn.Module) -> list[Site]:
    held = {name: getattr(module, name, None) for name in OF_ATTENTION_WEIGHTS}
    layers: list[Site] = [(dropout, "p") for dropout in held.values() if isinstance(dropout, nn.Dropout)]
    return layers + [(module, name) for name, number in held.items() if isinstance(number, int | float)]


OF_DROPOUT = 1
"""Third number of the seed of dropout masks, which separates it from those of heads and folds."""


def dropout_seed(seed: int, rank: int) -> int:
    """Return the random state of a trial's dropout masks on a rank, different from the head's and other ranks'."""
    return int(np.random.SeedSequence([seed, rank, OF_DROPOUT]).generate_state(1)[0])


class RandomState:
    """State of torch's generators for one trial: `with state:` around its computation swaps it in and out."""

    def __init__(self, seed: int, device: torch.device, rank: int = 0) -> None:
        self._device, self._rank = device, rank
        self._outer: list[Tensor] = []
        outside = self.current()
        self._seed(dropout_seed(seed, rank))
        self.state = self.current()
        """The trial's state, while it does not compute."""
        self._restore(outside)

    def __enter__(self) -> None:
        self._outer = self.current()
        self._restore(self.state)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.state = self.current()
        self._restore(self._outer)

    def current(self) -> list[Tensor]:
        """Return the state of torch's generators as it is now, for a checkpoint."""
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else states

    def adopt(self, of_ranks: Sequence[list[Tensor]]) -> None:
        """Continue, inside the `with`, from the result of `current` on this rank; None changes nothing."""
        if self._rank < len(of_ranks):
            self._restore(of_ranks[self._rank])

    def _seed(self, seed: int) -> None:
        """Seed the generators of the CPU and of this device; `torch.manual_seed` would seed those of all devices."""
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            with torch.cuda.device(self._device):
                torch.cuda.manual_seed(seed)

    def _restore(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(states[1], self._device)
