"""Dropout of a model: where it is and with which probability, everywhere alike or of the attention weights apart.

Encoders hold their dropouts as `nn.Dropout`, many decoders that of the attention weights as a number.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from hpo.errors import ModelError

OF_ATTENTION_WEIGHTS = ("dropout", "attention_dropout", "attn_dropout", "attn_pdrop", "attn_dropout_p", "dropout_prob")
"""What transformers calls this dropout in its attention modules; their `resid_dropout`, `out_drop`, `pos_dropout` and
`output_dropout` are of hidden states."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DropoutSite:
    """One place of a model that holds a dropout probability."""

    module: nn.Module
    attribute: str
    own: float
    """The model's own probability."""

    def put(self, probability: float) -> None:
        """Drop out with this probability here."""
        setattr(self.module, self.attribute, probability)


class Dropouts:
    """Every dropout of a model; made while they are the model's own."""

    def __init__(self, network: Any) -> None:
        self._model = type(network).__name__
        modules = list(network.modules())
        self._layers = [_of_layer(module) for module in modules if isinstance(module, nn.Dropout)]
        self._attention = [place for module in modules if _is_attention(module) for place in _of_attention(module)]

    def put(self, probability: float | None, attention: float | None = None) -> None:
        """Set every dropout layer to `probability`, and the dropout of attention weights to `attention`.

        Args:
            probability: in [0, 1); None for the model's own.
            attention: in [0, 1); None for `probability` where it is a layer, the model's own where it is a number.

        Raises:
            ModelError: a probability where the model has no such dropout.
        """
        for place in (*self._layers, *self._attention):
            place.put(place.own)
        if probability is not None:
            self.refuse()
            for place in self._layers:
                place.put(probability)
        if attention is not None:
            self.refuse_attention()
            for place in self._attention:
                place.put(attention)

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


def _of_layer(layer: nn.Dropout) -> DropoutSite:
    return DropoutSite(module=layer, attribute="p", own=layer.p)


def _is_attention(module: nn.Module) -> bool:
    """Return whether it computes attention itself; T5LayerSelfAttention only holds what does, and another dropout."""
    return _named_attention(module) and not any(_named_attention(child) for child in module.children())


def _named_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__


def _of_attention(module: nn.Module) -> list[DropoutSite]:
    places = []
    for name in OF_ATTENTION_WEIGHTS:
        held = getattr(module, name, None)
        if isinstance(held, nn.Dropout):
            places.append(_of_layer(held))
        elif isinstance(held, int | float):
            places.append(DropoutSite(module=module, attribute=name, own=held))
    return places
