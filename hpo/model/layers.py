"""Transformer layers that are kept of a model: the bottom ones, in place, and all again for the next trial.

Dropping the top layers of a pretrained encoder before fine-tuning costs least (Sajjad et al. 2020).
"""

from typing import Any

from torch import nn

from hpo.errors import ConfigurationError, ModelError
from hpo.model.methods import transformer_layers

PER_LAYER = ("num_hidden_layers", "layer_types", "mlp_layer_types")
"""What of a model's config tells of each layer, and so follows those that are kept."""


class LayerStack:
    """The transformer layers of a model that has all of them when this is made."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._name, self._whole = transformer_layers(network)
        self._config = network.config.get_text_config()
        self._facts = {name: getattr(self._config, name) for name in PER_LAYER if getattr(self._config, name, None)}

    def keep(self, count: int | None) -> None:
        """Keep the bottom `count` layers; None for all.

        Raises:
            ConfigurationError: more layers than the model has.
            ModelError: its layers are not one plain stack.
        """
        self._put(self._whole, self._facts)
        if count is not None:
            refuse_kept_layers(self._network, count)
            facts = {name: count if name == "num_hidden_layers" else fact[:count] for name, fact in self._facts.items()}
            self._put(self._whole[:count], facts)

    def _put(self, layers: nn.ModuleList, facts: dict[str, Any]) -> None:
        owner, _, attribute = self._name.rpartition(".")
        setattr(self._network.get_submodule(owner), attribute, layers)
        # Layers that were left out have missed every `train()` and `eval()` since.
        layers.train(self._network.training)
        for name, fact in facts.items():
            # Where the layers cannot be cut, the config may refuse to be told of any.
            if getattr(self._config, name) != fact:
                setattr(self._config, name, fact)


def refuse_kept_layers(network: Any, wanted: int) -> None:
    """Raise where a model that has all its layers cannot keep the bottom `wanted` of them.

    Raises:
        ConfigurationError: it has fewer.
        ModelError: its layers are not one plain stack: shared, nested, in parallel lists, or a decoder's too.
    """
    prefix, layers = transformer_layers(network)
    config = network.config.get_text_config()
    beside = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == len(layers) and not name.startswith(f"{prefix}.")
    }
    if network.config.is_encoder_decoder or len(layers) != config.num_hidden_layers or beside != {prefix}:
        raise ModelError(
            f"kept_layers is given, but the layers of {type(network).__name__} are not one plain stack whose top can "
            "be left out; leave kept_layers out of the space."
        )
    if wanted > len(layers):
        raise ConfigurationError(
            f"kept_layers is {wanted}, but the model has {len(layers)} layers; use at most {len(layers)}."
        )
