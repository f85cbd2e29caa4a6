"""Fine-tuning methods: full, top layers, head or LoRA; the parameters of the network that a trial trains.

Below the lowest trained parameter nothing asks for a gradient, so the backward pass ends there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError
from hpo.model.layers import heights, transformer_layers


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
