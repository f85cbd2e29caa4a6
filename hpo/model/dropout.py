"""Dropout: its probabilities in a model, everywhere alike or of the attention weights apart.

Encoders hold their dropouts as `nn.Dropout`, many decoders that of the attention weights as a number.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from hpo.errors import ModelError

OF_ATTENTION_WEIGHTS = ("dropout", "attention_dropout", "attn_dropout", "attn_pdrop", "attn_dropout_p", "dropout_prob")
"""What transformers calls this dropout in its attention modules; their `resid_dropout`, `out_drop`, `pos_dropout` and
`output_dropout` are of hidden states."""


Site = tuple[nn.Module, str]
"""Where a model holds a dropout probability: a module and its attribute."""


class Dropouts:
    """Every dropout of a model; made while they are the model's own."""

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
            attention: in [0, 1); None for `probability` where it is a layer, the model's own where it is a number.

        Raises:
            ModelError: a probability where the model has no such dropout.
        """
        _set(self._own)
        if probability is not None:
            self.refuse()
            _set(dict.fromkeys(self._layers, probability))
        if attention is not None:
            self.refuse_attention()
            _set(dict.fromkeys(self._attention, attention))

    def refuse(self) -> None:
        """Raise a `ModelError` where the model has no dropout layers to set."""
        if not self._layers:
            raise ModelError(
                f"dropout is given, but {self._model} has no dropout layers; leave dropout out of the space."
            )

    def refuse_attention(self) -> None:
        """Raise a `ModelError` where the model has no dropout of attention weights to set."""
        if not self._attention:
            raise ModelError(
                f"attention_dropout is given, but {self._model} has no dropout of attention weights that is known; "
                "leave attention_dropout out of the space."
            )


def _set(probabilities: Mapping[Site, float]) -> None:
    for (module, name), probability in probabilities.items():
        setattr(module, name, probability)


def _is_attention(module: nn.Module) -> bool:
    """Return whether it computes attention itself; T5LayerSelfAttention only holds what does, and another dropout."""
    return _named_attention(module) and not any(_named_attention(child) for child in module.children())


def _named_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def _attention_sites(module: nn.Module) -> list[Site]:
    held = {name: getattr(module, name, None) for name in OF_ATTENTION_WEIGHTS}
    layers: list[Site] = [(dropout, "p") for dropout in held.values() if isinstance(dropout, nn.Dropout)]
    return layers + [(module, name) for name, number in held.items() if isinstance(number, int | float)]
