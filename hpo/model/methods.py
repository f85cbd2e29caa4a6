"""Fine-tuning methods: full, top layers, head or LoRA; the layers of a network and what of it a trial trains.

Layers are the `nn.ModuleList` that is as long as the model's config says, else the longest. What is above them follows
from the order in which the model registers its parameters: embeddings, layers, final norm or pooler, head. Dropping
the top layers of a pretrained encoder before fine-tuning costs least (Sajjad et al. 2020).

Below the lowest trained parameter nothing asks for a gradient, so the backward pass ends there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError, ModelError

PER_LAYER = ("num_hidden_layers", "layer_types", "mlp_layer_types")
"""What of a model's config tells of each layer, and so follows those that are kept."""


def transformer_layers(network: Any) -> tuple[str, nn.ModuleList]:
    """Return the name and the list of the transformer layers, those that are kept.

    Raises:
        ModelError: the model keeps its layers in no `nn.ModuleList`.
    """
    lists = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ModelError(f"{type(network).__name__} keeps no list of transformer layers, so it cannot be fine-tuned.")
    config = getattr(network, "config", None)
    declared = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    # A model cut to few layers may hold a longer list, such as experts; one of shared layers has none of that length.
    return max(lists, key=lambda named: (len(named[1]) == declared, len(named[1])))


def above_layers(network: Any) -> set[str]:
    """Name the parameters above the transformer layers: those registered behind them, but for what the layers read.

    A model of relative positions may hold their embeddings behind its layers, in the same module; all that it holds
    there is then read by the layers, such as the norm and the convolution of DeBERTa-v3.

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
    """Name the parameters that are drawn anew for each trial: all outside the pretrained model.

    Where the class does not say which of its parts that is, as of remote code, all above the layers.
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
    """Return the bottom layers, below all of which nothing trains either, of a network whose parameters `trained` are.

    Raises:
        ModelError: the model keeps its layers in no `nn.ModuleList`.
    """
    found = heights(network)
    lowest = min((found[name] for name in trained), default=0)
    return list(transformer_layers(network)[1][: max(0, lowest - 1)])


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
            # Where the layers cannot be cut, the config may refuse to be changed.
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


@dataclass(frozen=True, slots=True)
class Method:
    """A choice of what a trial trains."""

    description: str
    source: str
    boundary: Callable[[int, Hyperparameters], int]
    """From how many layers are kept and the trial's values to the least of the `heights` that train."""
    shares: bool = False
    """Whether several trials can train over one backbone, each with modules of its own in the place of what trains."""


def everything(layers: int, hyperparameters: Hyperparameters) -> int:  # noqa: ARG001
    """Train from the embeddings on."""
    return 0


def top_layers(layers: int, hyperparameters: Hyperparameters) -> int:
    """Train the top `trained_layers` layers and all above them."""
    assert hyperparameters.trained_layers is not None
    return layers + 1 - hyperparameters.trained_layers


def above_all(layers: int, hyperparameters: Hyperparameters) -> int:  # noqa: ARG001
    """Train no pretrained weight of the network but the pooler's."""
    return layers + 2


def refuse_trained_layers(network: Any, wanted: int) -> None:
    """Raise a `ConfigurationError` where the model has fewer than `wanted` transformer layers."""
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
    """Put a network into training mode, but what is frozen of it into evaluation mode, so that its output is fixed.

    Frozen are modules whose parameters all are, and those without parameters, such as the dropout of embeddings, that
    are registered behind a frozen one. What the network itself holds without parameters is of the head. A dropout that
    a module with trained layers applies to the embeddings itself, as in BART, T5 and XLNet, stays.
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
    """Let train what is at the method's boundary or above, new weights and the pooler; freeze all else.

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
    """Return path -> module of a network in training mode: the largest of which nothing is frozen, dropouts too."""
    if not network.training:
        return {}
    if all(parameter.requires_grad for parameter in network.parameters()):
        return {prefix: network}
    below = (trained_modules(child, f"{prefix}.{name}".lstrip(".")) for name, child in network.named_children())
    return {path: module for modules in below for path, module in modules.items()}
