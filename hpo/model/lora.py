"""LoRA: low-rank adapters on the frozen linear layers of a network (Hu et al. 2022).

A layer's output W x becomes W x + scaling * B A x. A starts uniform like PEFT's, and B at zero, so that a trial starts
from the pretrained network. The scaling is alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023). The
weights of adapters are fp32 whatever the network's are.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError, ModelError
from hpo.model.cpu_dropout import kept_elements

OF_ADAPTERS = 2
"""Third number of an adapter's seed, which separates it from those of heads, folds and dropout masks."""
ATTENTION = ("attention", "attn")
"""Words in the paths of attention's linear layers."""


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter; only the adapter's parameters are registered, under PEFT's names."""

    def __init__(self, base: nn.Module, hyperparameters: Hyperparameters, generator: torch.Generator) -> None:
        """Add an adapter to `base`, a `Linear` or a `Conv1D`; its A is drawn from a generator of the CPU."""
        super().__init__()
        rank, alpha, probability = _applying(hyperparameters)
        # In a tuple, because a module registers any module that is its attribute.
        self._base = (base,)
        sizes = (base.nx, base.nf) if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        inputs, outputs = map(int, sizes)
        # Created without a device: the library's own initialisation would use torch's generator.
        self.lora_A = nn.Linear(inputs, rank, bias=False, device="meta").to_empty(device="cpu")
        self.lora_B = nn.Linear(rank, outputs, bias=False, device="meta").to_empty(device="cpu")
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B.weight)
        self.lora_dropout = nn.Dropout(probability)
        self.scaling = alpha / (math.sqrt(rank) if hyperparameters.lora_scaling == "rslora" else rank)

    @property
    def base(self) -> nn.Module:
        """The frozen layer."""
        return self._base[0]

    @property
    def weight(self) -> Tensor:
        """Result of `empty_weight`; T5 asks for its dtype."""
        return empty_weight(self.base)

    def forward(self, states: Tensor) -> Tensor:
        """Return the layer's output with its adapter, in the dtype of the layer's output; shape (rows, ..., out)."""
        return adapted(self.base, states, [AdaptedRows(adapter=self, rows=slice(0, states.shape[0]))])

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapter to the frozen layer's weights, computed in fp32."""
        change = self.scaling * (self.lora_B.weight @ self.lora_A.weight)
        weight = self.base.get_parameter("weight")
        weight.copy_(weight.float() + (change.T if isinstance(self.base, Conv1D) else change))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedRows:
    """Rows of the batch that belong to the adapter's trial."""

    adapter: LoraLinear
    rows: slice
    width: int | None = None
    """Length in tokens to which the trial's own batch is padded; None for the whole length."""
    random: AbstractContextManager[object] = field(default_factory=nullcontext)
    """Random state for its dropout."""

    @property
    def kept_share(self) -> float:
        """Probability with which dropout keeps a value."""
        dropout = self.adapter.lora_dropout
        return 1 - dropout.p if dropout.training else 1.0

    @property
    def scaling(self) -> float:
        """Factor of the product of states, A and B."""
        return self.adapter.scaling / self.kept_share

    def kept(self, states: Tensor) -> Tensor:
        """Return states of shape (rows, ..., in) after this adapter's dropout; shape (tokens, in)."""
        mine = states[self.rows]
        # Masks are drawn only for its own tokens, as when the trial is alone.
        own = mine if mine.ndim == 2 else mine[:, : self.width]
        with self.random:
            kept = kept_elements(own.shape, self.kept_share, states.device)
        if own.shape != mine.shape:
            kept = pad(kept, (0, 0, 0, mine.shape[1] - own.shape[1]))
        return kept.view(-1, states.shape[-1])

    def can_join(self, before: "AdaptedRows") -> bool:
        """Return true if both can be computed in one product: neighbours with equal shapes and scaling."""
        of_both = [
            (one.rows.stop - one.rows.start, one.adapter.lora_A.weight.shape, one.scaling, one.kept_share)
            for one in (self, before)
        ]
        return before.rows.stop == self.rows.start and of_both[0] == of_both[1]


def adapted(base: nn.Module, states: Tensor, adapters: Sequence[AdaptedRows]) -> Tensor:
    """Return a frozen layer's output with adapters, each for its own rows; shape (rows, ..., out).

    The layer is computed once for all rows. Nothing of one trial's rows or adapter reaches another's, not even NaN.

    Args:
        base: the frozen layer.
        states: shape (rows, ..., in).
        adapters: in the order of their rows.
    """
    groups: list[list[AdaptedRows]] = []
    for one in adapters:
        if groups and one.can_join(groups[-1][-1]):
            groups[-1].append(one)
        else:
            groups.append([one])
    flat = states.reshape(-1, states.shape[-1])
    tokens = flat.shape[0] // states.shape[0]
    parts = [slice(tokens * group[0].rows.start, tokens * group[-1].rows.stop) for group in groups]
    tensors = [tensor for group in groups for tensor in _stacked(group, states)]
    scalings = [group[0].scaling for group in groups]
    output: Tensor = _Adapted.apply(base(flat), flat, parts, scalings, *tensors)  # type: ignore[no-untyped-call]
    return output.view(*states.shape[:-1], output.shape[-1])


def _stacked(group: Sequence[AdaptedRows], states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return A, B and dropout masks, stacked; None for the masks if nothing is dropped."""
    kept = [one.kept(states) for one in group if one.kept_share < 1]
    a, b = [one.adapter.lora_A.weight for one in group], [one.adapter.lora_B.weight for one in group]
    return torch.stack(a), torch.stack(b), torch.stack(kept) if kept else None


class _Adapted(torch.autograd.Function):
    """Add the outputs of adapters for parts of the tokens to a frozen layer's output, in place.

    Written by hand, because recording the many small operations of several trials would take longer than computing
    them.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, states: Tensor, parts: Sequence[slice], scalings: Sequence[float], *tensors: Tensor
    ) -> Tensor:
        """Return the output, shape (tokens, out), for states (tokens, in).

        `tensors` has for each part, which n adapters share evenly, A and B, shape (n, ...), and the dropout mask.
        """
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensors[0].dtype
        narrow = []
        for part, scaling, a, b, kept in zip(parts, scalings, tensors[::3], tensors[1::3], tensors[2::3], strict=True):
            # Scale where the tensor is narrowest.
            inner = torch.bmm(_left(states[part], len(a), kept).to(dtype), a.to(dtype).mT).mul_(scaling)
            narrow.append(inner)
            mine, b_turned = output[part].view(len(a), -1, output.shape[-1]), b.to(dtype).mT
            if output.dtype == dtype:
                mine.baddbmm_(inner, b_turned)
            else:
                mine += torch.bmm(inner, b_turned)
        ctx.mark_dirty(output)
        ctx.parts, ctx.scalings, ctx.dtype = parts, scalings, dtype
        ctx.save_for_backward(states, *tensors, *narrow)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the output, the states, and of A and B of each part."""
        states, *saved = ctx.saved_tensors
        count, dtype = len(ctx.parts), ctx.dtype
        covers_all = sum(part.stop - part.start for part in ctx.parts) == len(states)
        of_states = None
        if ctx.needs_input_grad[1]:
            of_states = torch.empty_like(states) if covers_all else torch.zeros_like(states)
        of_tensors: list[Tensor | None] = []
        for part, scaling, a, b, kept, inner in zip(
            ctx.parts, ctx.scalings, *(saved[start : 3 * count : 3] for start in range(3)), saved[3 * count :],
            strict=True,
        ):  # fmt: skip
            mine = gradient[part].reshape(len(a), -1, gradient.shape[-1]).to(dtype)
            of_inner = torch.bmm(mine, b.to(dtype)).mul_(scaling)
            of_a = torch.bmm(of_inner.mT, _left(states[part], len(a), kept).to(dtype))
            of_tensors += [of_a.to(a.dtype), torch.bmm(mine.mT, inner).to(b.dtype), None]
            if of_states is not None:
                of_part = torch.bmm(of_inner, a.to(dtype))
                of_states[part] = (of_part if kept is None else of_part * kept).view(-1, states.shape[-1])
        return gradient, of_states, None, None, *of_tensors


def empty_weight(layer: nn.Module) -> Tensor:
    """Return an empty tensor with the dtype and device of a layer's weight.

    A network may ask for these, but a product with the weight, which would leave out the adapter, fails.
    """
    weight = layer.get_parameter("weight")
    return torch.empty(0, dtype=weight.dtype, device=weight.device)


def _left(states: Tensor, adapters: int, kept: Tensor | None) -> Tensor:
    """Return the states of that many adapters after dropout; shape (adapters, tokens, in)."""
    mine = states.view(adapters, -1, states.shape[-1])
    return mine if kept is None else mine * kept


def lora_layers(
    network: Any, hyperparameters: Hyperparameters, fresh: Collection[str], seed: int
) -> dict[str, LoraLinear]:
    """Return path -> adapter of each layer that `lora_targets` names, initialised from `seed`, on the network's device.

    Args:
        network: a transformers model without adapters.
        hyperparameters: of method `lora`.
        fresh: names of its newly initialised parameters, which are trained themselves.
        seed: of the trial.

    Raises:
        ConfigurationError: a target that is not a linear layer of the model, or cannot have an adapter.
    """
    assert hyperparameters.lora_targets is not None
    targets = lora_targets(network, hyperparameters.lora_targets, fresh)
    drawn = np.random.SeedSequence([seed, 0, OF_ADAPTERS]).generate_state(1)[0]
    generator = torch.Generator().manual_seed(int(drawn))
    return {
        path: LoraLinear(base, hyperparameters, generator).to(next(base.parameters()).device)
        for path, base in targets.items()
    }


def lora_targets(network: Any, wanted: str, fresh: Collection[str] = frozenset()) -> dict[str, nn.Module]:
    """Return path -> linear layer of a network that gets an adapter.

    Args:
        network: a transformers model.
        wanted: `all-linear`, `attention`, `mlp`, or comma-separated names: a layer's path, or the end of one.
        fresh: names of newly initialised parameters.

    Raises:
        ConfigurationError: a name that matches no linear layer, or experts that are not linear layers.
    """
    layers = adaptable_layers(network, fresh)
    if wanted in ("all-linear", "mlp"):
        _refuse_experts(network, wanted)
    if wanted == "all-linear":
        return layers
    if wanted in ("attention", "mlp"):
        found = {path: layer for path, layer in layers.items() if _is_of_attention(path) == (wanted == "attention")}
        if not found:
            raise ConfigurationError(_no_such_layer(network, [wanted], layers))
        return found
    names = [name.strip() for name in wanted.split(",")]
    unknown = [name for name in names if not any(_is_named(path, name) for path in layers)]
    if unknown:
        raise ConfigurationError(_no_such_layer(network, unknown, layers))
    return {path: layer for path, layer in layers.items() if any(_is_named(path, name) for name in names)}


def note_on_targets(network: Any, wanted: str, fresh: Collection[str] = frozenset()) -> str:
    """Return a sentence on layer weights that get no adapter and are not trained otherwise; empty if there are none.

    Raises:
        ConfigurationError: as `lora_targets`.
    """
    adapted = lora_targets(network, wanted, fresh)
    frozen = [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and path not in adapted and not _is_trained(path, fresh)
    ]
    frozen += [name for name, weight in network.named_parameters() if weight.ndim == 3 and "expert" in name]
    if not frozen:
        return ""
    ends = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in sorted(frozen)))
    return f"With lora_targets {wanted}, {len(adapted)} linear layers get an adapter, others stay as they are: {ends}."


def adaptable_layers(network: Any, fresh: Collection[str] = frozenset()) -> dict[str, nn.Module]:
    """Return path -> linear layer of a network, without its head, which is trained, and its output embeddings.

    Raises:
        ModelError: there is none.
    """
    output = network.get_output_embeddings()
    found = {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output and not _is_trained(path, fresh)
    }
    if not found:
        raise ModelError(f"{type(network).__name__} has no linear layers for method lora; choose another method.")
    return found


def merge(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Merge all adapters among a trial's modules into their layers; return the other modules."""
    for module in modules.values():
        if isinstance(module, LoraLinear):
            module.merge()
    return {path: module for path, module in modules.items() if not isinstance(module, LoraLinear)}


def _applying(hyperparameters: Hyperparameters) -> tuple[int, float, float]:
    """Return rank, alpha and dropout, which are never None under method `lora`."""
    rank, alpha, dropout = hyperparameters.lora_rank, hyperparameters.lora_alpha, hyperparameters.lora_dropout
    assert rank is not None
    assert alpha is not None
    assert dropout is not None
    return rank, alpha, dropout


def _is_trained(path: str, fresh: Collection[str]) -> bool:
    """Return true if a layer belongs to the head, or is a pooler, which are trained themselves."""
    return f"{path}.weight" in fresh or "pooler" in path.split(".")


def _is_of_attention(path: str) -> bool:
    return any(word in path.lower() for word in ATTENTION)


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _refuse_experts(network: Any, wanted: str) -> None:
    """Raise an error if a mixture of experts holds its weights in one tensor, which `wanted` would silently miss."""
    experts = next((name for name, weight in network.named_parameters() if weight.ndim == 3 and "expert" in name), None)
    if experts:
        raise ConfigurationError(
            f"lora_targets is {wanted}, but the experts of {type(network).__name__} are no linear layers ({experts} "
            "holds them all) and cannot have adapters; use lora_targets: attention."
        )


def _no_such_layer(network: Any, names: Iterable[str], layers: Collection[str]) -> str:
    ends = ", ".join(sorted({path.rpartition(".")[2] for path in layers}))
    sentence = f"lora_targets names {', '.join(names)}, but {type(network).__name__} has linear layers {ends}"
    output = network.get_output_embeddings()
    if heads := [path for path, module in network.named_modules() if module is output and output is not None]:
        sentence = f"{sentence}; {heads[0]}, its output embeddings, gets no adapter"
    return f"{sentence}; choose among these, or all-linear, attention or mlp."
