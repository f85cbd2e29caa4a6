"""Fine-tuning methods: full, top layers, head or LoRA; the layers of a network, and the part that a trial trains.

Layers are the `nn.ModuleList` with the length in the model's config, else the longest. Parameters above them are known
from the order in which the model registers its parameters: embeddings, layers, final norm or pooler, head. Dropping the
top layers of a pretrained encoder before fine-tuning costs least (Sajjad et al. 2020).

Below the lowest trained parameter nothing requires a gradient, so the backward pass ends there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError, ModelError

PER_LAYER = ("num_hidden_layers", "layer_types", "mlp_layer_types")
"""Entries of a model's config with one value per layer, which must match the layers that are kept."""


def transformer_layers(network: Any) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the transformer layers that are kept.

    Raises:
        ModelError: the model keeps its layers in no `nn.ModuleList`.
    """
    lists = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError(f"{type(network).__name__} keeps no list of transformer layers, so it cannot be fine-tuned.")
    config = getattr(network, "config", None)
    declared = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    # A model cut to few layers may hold a longer list, such as experts; a model with shared layers has none of that
    # length.
    return max(lists, key=lambda named: (len(named[1]) == declared, len(named[1])))


def above_layers(network: Any) -> set[str]:
    """Name the parameters above the transformer layers: those registered after them, except those that layers use.

    A model with relative positions may register their embeddings after its layers, in the same module. The layers then
    use everything in that module, such as the norm and the convolution of DeBERTa-v3.

    Raises:
        ModelError: the model keeps its layers in no `nn.ModuleList`.
    """
    prefix, _ = transformer_layers(network)
    holder = f"{prefix.rpartition('.')[0]}."
    names = [name for name, _ in network.named_parameters()]
    start = next((index for index, name in enumerate(names) if name.startswith(f"{prefix}.")), len(names))
    behind = [name for name in names[start:] if not name.startswith(f"{prefix}.")]
    owners = [network.get_submodule(name.rpartition(".")[0]) for name in behind if name.startswith(holder)]
    relative = any(isinstance(owner, nn.Embedding) for owner in owners)
    return {name for name in behind if "embed" not in name and not (relative and name.startswith(holder))}


def head_parameters(network: Any) -> set[str]:
    """Name the parameters that each trial initialises: all outside the pretrained model.

    If the class does not declare which part that is, as with remote code, all above the layers.
    """
    prefix = f"{network.base_model_prefix}."
    outside = {name for name, _ in network.named_parameters() if not name.startswith(prefix)}
    return outside if outside and network.base_model is not network else above_layers(network)


def heights(network: Any) -> dict[str, int]:
    """Return name -> height of each parameter of a model of n layers: 0 below them, 1 to n in them, n + 1 above.

    Raises:
        ModelError: the model keeps its layers in no `nn.ModuleList`.
    """
    prefix, layers = transformer_layers(network)
    found = {name: 0 for name, _ in network.named_parameters()} | dict.fromkeys(above_layers(network), len(layers) + 1)
    for number, layer in enumerate(layers):
        found |= {f"{prefix}.{number}.{name}": number + 1 for name, _ in layer.named_parameters()}
    return found


def frozen_layers(network: Any, trained: Iterable[str]) -> list[nn.Module]:
    """Return the bottom layers that are frozen, with nothing trained below them, in a network that trains `trained`.

    Raises:
        ModelError: the model keeps its layers in no `nn.ModuleList`.
    """
    found = heights(network)
    lowest = min((found[name] for name in trained), default=0)
    return list(transformer_layers(network)[1][: max(0, lowest - 1)])


class LayerStack:
    """The transformer layers of a model that has all of them at construction."""

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
            # The config of a model whose layers cannot be cut may refuse changes.
            if getattr(self._config, name) != fact:
                setattr(self._config, name, fact)


def refuse_kept_layers(network: Any, wanted: int) -> None:
    """Raise an error if a model with all its layers cannot keep the bottom `wanted` of them.

    Raises:
        ConfigurationError: it has fewer.
        ModelError: its layers are not one plain stack: shared, nested, in parallel lists, or also a decoder's.
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


@dataclass(frozen=True, slots=True)
class Method:
    """Fine-tuning method: the choice of the weights that a trial trains."""

    description: str
    source: str
    boundary: Callable[[int, Hyperparameters], int]
    """Function from the number of kept layers and the trial's values to the lowest of the `heights` that train."""
    shares: bool = False
    """True if several trials can train over one backbone, each with its own modules for the trained part."""


def everything(layers: int, hyperparameters: Hyperparameters) -> int:  # noqa: ARG001
    """Train everything, from the embeddings up."""
    return 0


def top_layers(layers: int, hyperparameters: Hyperparameters) -> int:
    """Train the top `trained_layers` layers and everything above them."""
    assert hyperparameters.trained_layers is not None
    return layers + 1 - hyperparameters.trained_layers


def above_all(layers: int, hyperparameters: Hyperparameters) -> int:  # noqa: ARG001
    """Train no pretrained weight of the network except the pooler's."""
    return layers + 2


def refuse_trained_layers(network: Any, wanted: int) -> None:
    """Raise a `ConfigurationError` if the model has fewer than `wanted` transformer layers."""
    _, layers = transformer_layers(network)
    if wanted > len(layers):
        raise ConfigurationError(
            f"trained_layers is {wanted}, but the model has {len(layers)} layers; use at most {len(layers)}."
        )


METHODS: dict[str, Method] = {
    "full": Method("all weights", "Devlin et al. 2019", everything),
    "top_layers": Method(
        "the top transformer layers, all above them, and the head", "Howard and Ruder 2018; Lee et al. 2019", top_layers
    ),
    "head": Method("the head, and the pooler below it", "Peters et al. 2019", above_all, shares=True),
    "lora": Method("low-rank adapters beside frozen layers, and the head", "Hu et al. 2022", above_all, shares=True),
}


def to_training_mode(network: nn.Module) -> None:
    """Set a network to training mode, and its frozen modules to evaluation mode, so that their output is fixed.

    A module is frozen if all its parameters are, or if it has none, such as the dropout of embeddings, and is
    registered after a frozen one. Parameterless modules directly in the network belong to the head. A dropout that a
    module with trained layers applies to the embeddings itself, as in BART, T5 and XLNet, stays on.
    """
    network.train()
    for module in network.modules():
        below = False
        for child in module.children():
            parameters = list(child.parameters())
            if parameters or module is network:
                below = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
            if below:
                child.eval()


def select_parameters(network: Any, fresh: frozenset[str], hyperparameters: Hyperparameters) -> dict[str, nn.Parameter]:
    """Train what is at the method's boundary or above, new weights and the pooler; freeze all else.

    Returns:
        Name -> trained parameter.

    Raises:
        ConfigurationError: more layers than the model has.
    """
    if hyperparameters.trained_layers is not None:
        refuse_trained_layers(network, hyperparameters.trained_layers)
    found = heights(network)
    boundary = METHODS[hyperparameters.method].boundary(len(transformer_layers(network)[1]), hyperparameters)
    trained = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(found[name] >= boundary or name in fresh or "pooler" in name.split("."))
        if parameter.requires_grad:
            trained[name] = parameter
    return trained


def trained_modules(network: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Return path -> module of a network in training mode: the largest ones, with dropouts, without a frozen part."""
    if not network.training:
        return {}
    if all(parameter.requires_grad for parameter in network.parameters()):
        return {prefix: network}
    below = (trained_modules(child, f"{prefix}.{name}".lstrip(".")) for name, child in network.named_children())
    return {path: module for modules in below for path, module in modules.items()}
