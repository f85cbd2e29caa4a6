"""Backbone: the pretrained network that trials start from, reset in place for each."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from hpo.data.batching import Batch
from hpo.errors import ModelError
from hpo.files.shared import SharedFiles, content_digest
from hpo.messages import Precision
from hpo.model.cpu_dropout import fast_dropout
from hpo.model.gradient_checkpointing import GradientCheckpointing
from hpo.model.last_layer import Forward, first_token_forward, forwards
from hpo.model.methods import LayerStack, transformer_layers
from hpo.model.randomness import Dropouts
from hpo.tasks.protocol import ClassifierHead, Head

PREPARED_MASKS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
"""Architectures that use a mask of shape (rows, 1, 1, length), True where there is text, unchanged."""

FINGERPRINT_NUMBERS = 64
"""Approximate number of values of each weight that enter a fingerprint."""
SHORT_ROWS = 128
"""Tokens up to which the backward pass of torch's flash attention for CPUs is slow in bf16."""
NUMBERS_IN_FP32 = 2**22
"""Number of values of a frozen 16-bit matrix that are in fp32 at a time."""


Given = Callable[[Batch], AbstractContextManager[object]]
"""Context in which a pass through the network uses cached hidden states of a batch."""


def all_computed(_batch: Batch) -> AbstractContextManager[object]:
    """Compute everything in a pass."""
    return nullcontext()


class Backbone:
    """A network on its device, its tokenizer and a copy of its pretrained weights, for all trials of a process."""

    def __init__(
        self, network: Any, tokenizer: Any, fresh: frozenset[str], device: torch.device, shared: SharedFiles | None,
        *, head: Head | None = None,
    ) -> None:  # fmt: skip
        """Take over a loaded model that is still on the CPU.

        Args:
            network: a transformers model with a head.
            tokenizer: its tokenizer.
            fresh: names of parameters that each trial initialises: the head, and a pooler without pretrained weights.
            device: device to train on.
            shared: store of the pretrained weights that all worker processes share; None to hold them here.
            head: computes the outputs; None for a classifier's head.
        """
        self.pad_id = set_padding(network, tokenizer)
        self.longest = _longest(network, tokenizer)
        """Most tokens of one text; None without a limit."""
        self.fresh = fresh
        """Names of parameters that each trial initialises."""
        self.fingerprint = _fingerprint(network, fresh)
        """Digest that identifies the pretrained weights, from a part of each."""
        self._shared = shared
        self._pretrained: Mapping[str, Tensor] | None = None
        owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in network.named_parameters() if name in fresh)
        for owner in map(network.get_submodule, owners):
            if next(owner.children(), None) is None:
                compute_in_fp32(owner)
        self.head: Head = head or ClassifierHead()
        """Head, which computes the outputs."""
        if type(words := network.get_output_embeddings()) is nn.Linear:
            words.__class__ = LinearInFp32 if words.weight.dtype == torch.float32 else FrozenLinearInFp32
        # Copies on the CPU: weights that are initialised there are the same on every device.
        self._fresh_modules = {owner: deepcopy(network.get_submodule(owner)) for owner in owners}
        self.layers = LayerStack(network)
        self.checkpointing = GradientCheckpointing(transformer_layers(network)[1])
        self.dropouts = Dropouts(network)
        plain = network.config.model_type in PREPARED_MASKS
        self._takes_prepared_mask = plain and network.config._attn_implementation == "sdpa"
        self._displaced: dict[str, nn.Module] = {}
        self._mounted: Mapping[str, nn.Module] = {}
        self._given: Given = all_computed
        self.evaluation_tokens: int | None = None
        """Tokens of a batch in evaluation, lowered if memory ran out."""
        self.tokenizer = tokenizer
        self.network = network.to(device)
        self.device = device
        self._last_layer: Mapping[nn.Module, Forward] = {}
        self.compute_first_token()

    @torch.no_grad()
    def reset(self, seed: int, head_scale: float | None = None) -> None:
        """Restore pretrained weights that were trained, and initialise the head from `seed`: the same on every device.

        The model then computes all its layers for all tokens. `layers.keep` must follow for a trial that keeps fewer
        layers, and `compute_first_token` for one that may compute less.

        Args:
            seed: of the new weights; equal seeds draw the same directions at every scale.
            head_scale: standard deviation of the new matrices, around 0; None for the library's own.
        """
        # All layers first, because a module may be mounted in a layer that a trial left out.
        self.layers.keep(None)
        self._last_layer = {}
        self.mount({})
        with torch.random.fork_rng(devices=[]):
            # Only the CPU's generator: `torch.manual_seed` would seed the generators of all devices too.
            torch.default_generator.manual_seed(seed)
            for module in self._fresh_modules.values():
                self.network._init_weights(module)
        fresh = {
            f"{owner}.{name}": tensor
            for owner, module in self._fresh_modules.items()
            for name, tensor in module.named_parameters(recurse=False)
        }
        if head_scale is not None:
            # From the seed again: a library that initialises its head in this way, at this scale, draws these very
            # numbers.
            generator = torch.Generator().manual_seed(seed)
            for matrix in (tensor for tensor in fresh.values() if tensor.ndim >= 2):
                matrix.normal_(0.0, head_scale, generator=generator)
        weights = {**(self._pretrained or {}), **{name: fresh[name] for name in self.fresh}}
        self.network.load_state_dict(weights, strict=self._pretrained is not None)
        self.network.zero_grad(set_to_none=True)

    def hold_pretrained(self) -> Mapping[str, Tensor]:
        """Return name -> pretrained weight, kept since before the first trial that rewrites the network's own."""
        if self._pretrained is None:
            pretrained = {n: t.cpu() for n, t in self.network.state_dict().items() if n not in self.fresh}
            self._pretrained = _kept(pretrained, self._shared)
        return self._pretrained

    def compute_first_token(self) -> None:
        """Compute the last of the kept layers for the first token alone, if the head reads no other."""
        self._last_layer = first_token_forward(self.network)

    def mount(self, modules: Mapping[str, nn.Module], given: Given = all_computed) -> None:
        """Mount modules at their paths in the network, and restore the network's own at all other paths.

        `given` provides cached hidden states of a batch, until other modules are mounted.
        """
        self._given = given
        if modules is self._mounted:
            return
        for path, module in {**self._displaced, **modules}.items():
            now = self.network.get_submodule(path)
            if now is not module:
                self._displaced.setdefault(path, now)
                self.network.set_submodule(path, module)
        if not modules:
            self._displaced.clear()
        self._mounted = modules

    def own(self, path: str) -> nn.Module:
        """Return the network's own module at a path, whatever is mounted there."""
        return self._displaced.get(path) or self.network.get_submodule(path)

    def logits(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the model's output for a batch, computed in `precision`; fp32, shape (rows, labels)."""
        with self._given(batch):
            return self.answer(batch, precision)

    def answer(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the same as `logits`, without cached hidden states."""
        last = {layer: self.checkpointing.of(forward) for layer, forward in self._last_layer.items()}
        self.checkpointing.kernels = partial(fastest_kernels, self.device, precision, batch.width)
        with autocast(self.device, precision), self.checkpointing.kernels(), forwards(last):
            return self.head.outputs(self.network, self._placed(batch), batch.lengths).float()

    def features(self, batch: Batch, precision: Precision) -> Tensor:
        """Return the mean of the last layer over the tokens of each text; fp32, shape (rows, width)."""
        with autocast(self.device, precision):
            states: Tensor = self.network.base_model(**self._placed(batch)).last_hidden_state
        mask = batch.inputs["attention_mask"].to(self.device).unsqueeze(-1)
        return (states.float() * mask).sum(dim=1) / mask.sum(dim=1)

    def _placed(self, batch: Batch) -> dict[str, Tensor]:
        """Return the inputs of the network, being copied to the device."""
        inputs = {name: self.placed(tensor) for name, tensor in batch.inputs.items()}
        if self._takes_prepared_mask:
            # Given an unprepared mask, transformers asks the device whether it masks anything, and waits for the
            # answer.
            mask = inputs.pop("attention_mask")
            is_padded = bool((batch.lengths < batch.width).any())
            return {**inputs, "attention_mask": mask[:, None, None, :].bool()} if is_padded else inputs
        return inputs

    def placed(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device; to a GPU it is copied asynchronously, from pinned memory."""
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def pretrained(self, names: Mapping[str, object]) -> dict[str, Tensor]:
        """Return name -> pretrained weight on the device, for those of `names` that have one; read only."""
        held = self.hold_pretrained()
        return {name: held[name].to(self.device) for name in names if name not in self.fresh}

    def refuse_length(self, max_length: int) -> None:
        """Raise a `ModelError` if texts of `max_length` tokens are longer than the model can read."""
        if self.longest is not None and max_length > self.longest:
            raise ModelError(
                f"max_length is {max_length}, but the model reads at most {self.longest} tokens; lower it to "
                f"{self.longest} or less."
            )
        self.head.refuse_length(max_length)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which a forward pass is computed in `precision`; weights stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def fastest_kernels(device: torch.device, precision: Precision, tokens: int) -> Iterator[None]:
    """Within the block, compute attention of rows of `tokens` tokens and dropout by the fastest kernels."""
    is_slow = device.type == "cpu" and precision == "bf16" and tokens <= SHORT_ROWS and torch.is_grad_enabled()
    with sdpa_kernel(SDPBackend.MATH) if is_slow else nullcontext(), fast_dropout(device):
        yield


def compute_in_fp32(module: nn.Module) -> None:
    """Give a module of a head fp32 weights and fp32 linear layers, because logits in bf16 would tie."""
    module.float()
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = LinearInFp32


class LinearInFp32(nn.Linear):
    """Linear layer that computes in fp32 under autocast too."""

    def forward(self, states: Tensor) -> Tensor:
        """Return the layer's output, in fp32."""
        with torch.autocast(states.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return nn.functional.linear(states.float(), self.weight.float(), bias)


class FrozenLinearInFp32(nn.Linear):
    """Linear layer of frozen 16-bit weights that computes in fp32; biases are unchanged."""

    def forward(self, states: Tensor) -> Tensor:
        """Return the layer's output, in fp32."""
        with torch.autocast(states.device.type, enabled=False):
            product: Tensor = _ProductInFp32.apply(states.float(), self.weight)  # type: ignore[no-untyped-call]
            return product if self.bias is None else product + self.bias


class _ProductInFp32(torch.autograd.Function):
    """Product with a 16-bit matrix, of which only some rows at a time are in fp32.

    In full, output embeddings of 128,000 tokens of width 2,048 would take 1 GiB, until the end of the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        product = states.new_empty(*states.shape[:-1], len(weight))
        for rows, some in _parts_in_fp32(weight):
            product[..., rows] = states @ some.T
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        of_states = gradient.new_zeros(*gradient.shape[:-1], weight.shape[1])
        for rows, some in _parts_in_fp32(weight):
            of_states += gradient[..., rows] @ some
        return of_states, None


def _parts_in_fp32(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield parts of the rows of a matrix, each also in fp32."""
    at_once = max(1, NUMBERS_IN_FP32 // weight.shape[1])
    for begin in range(0, len(weight), at_once):
        rows = slice(begin, begin + at_once)
        yield rows, weight[rows].float()


def set_padding(network: Any, tokenizer: Any) -> int:
    """Give tokenizer and model one padding token, the end-of-text token if there is none; return its id.

    A decoder's head reads the last token that is not padding, found by its id, not by the mask. So a text that itself
    ends with the padding token is read one token earlier, alone and in a padded batch alike.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError("The tokenizer has neither a padding nor an end-of-text token; name a `pad_token` in it.")
        tokenizer.pad_token = tokenizer.eos_token
    pad_id = int(tokenizer.pad_token_id)
    known = network.get_input_embeddings().num_embeddings
    if pad_id >= known:
        raise ModelError(f"The tokenizer's padding token is number {pad_id}, but the model knows only {known} tokens.")
    network.config.get_text_config().pad_token_id = pad_id
    network.config.pad_token_id = pad_id
    network.config.use_cache = False
    return pad_id


def _longest(network: Any, tokenizer: Any) -> int | None:
    limits = [limit for limit in (tokenizer.model_max_length,) if limit < 10**9]
    positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if positions:
        # RoBERTa and similar models count positions from the padding position on.
        tables = [m for name, m in network.named_modules() if name.endswith("position_embeddings")]
        paddings = [table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None]
        limits.append(positions - max((padding + 1 for padding in paddings), default=0))
    return min(limits, default=None)


def _kept(weights: Mapping[str, Tensor], shared: SharedFiles | None) -> Mapping[str, Tensor]:
    """Return those of `weights` that do not change in training, in this process's memory or in shared memory."""

    def copies() -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in weights.items()}

    # Identified only by content: a folder or hub id may have had other weights before.
    return copies() if shared is None else shared.tensors("weights", [content_digest(weights)], copies)


def _fingerprint(network: Any, fresh: frozenset[str]) -> str:
    """Return SHA-256, hexadecimal, over name, kind, shape and a few values of each pretrained tensor."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        if name not in fresh:
            numbers = tensor.flatten()[:: max(1, tensor.numel() // FINGERPRINT_NUMBERS)]
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(numbers.double().numpy().tobytes())
    return digest.hexdigest()
