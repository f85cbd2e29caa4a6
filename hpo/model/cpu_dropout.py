"""Dropout on a CPU, with masks from 16 random bits per element instead of torch's floating-point random numbers.

torch draws masks element by element on one thread, which takes 8 to 27% of a training step; this takes a fifth of that.
With dropout of attention weights, torch computes attention unfused on a CPU, so it is written out here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PER_DRAW = 4
"""Elements per random integer of 64 bits."""
LEVELS = 2**16
"""Equally likely values of the bits of an element, from -LEVELS / 2 on."""


def kept_elements(shape: Sequence[int], probability: float, device: torch.device) -> Tensor:
    """Return a boolean mask, drawn from torch's generator, of which each element is true with a probability in (0, 1].

    On a CPU the probability is rounded to a multiple of 1 / `LEVELS`, at least one.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=torch.bool, device=device).bernoulli_(probability)
    elements = math.prod(shape)
    draws = torch.empty(-(-elements // PER_DRAW), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[:elements].view(shape)
    # Not `<` the number of true levels: for probability 1 that is more than 16 bits hold.
    return bits <= max(1, round(probability * LEVELS)) - 1 - LEVELS // 2


def dropout(states: Tensor, p: float) -> Tensor:
    """Return states on a CPU, each zero with probability `p`, in [0, 1), and otherwise divided by 1 - p."""
    return states * kept_elements(states.shape, 1 - p, states.device).to(states.dtype).div_(1 - p)


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, p: float, scale: float) -> Tensor:
    """Return scaled dot-product attention on a CPU, with dropout of its weights; shape of `query`.

    Args:
        query: shape (rows, heads, queries, width).
        key: shape (rows, heads, tokens, width).
        value: of the same shape as `key`.
        mask: true at tokens that are attended to, or numbers to add to the scores; shape (rows, 1 or heads, 1 or
            queries, tokens).
        p: probability of dropout, in [0, 1).
        scale: factor of the scores.
    """
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if mask is not None:
        # Not infinity, which gives nan to queries that attend to nothing, such as padding beyond a sliding window.
        least = torch.finfo(scores.dtype).min / 2
        scores = scores.masked_fill(~mask, least) if mask.dtype == torch.bool else scores + mask.clamp_min(least)
    return torch.matmul(dropout(scores.softmax(-1).to(value.dtype), p), value)


class CpuDropout(TorchFunctionMode):
    """Mode in which torch's dropout and attention use the functions above where those apply; tensors are on a CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the result of calling `func`, any function of torch."""
        named = kwargs or {}
        if func is functional.dropout:
            return _dropout(*args, **named)
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **named)
        return func(*args, **named)


def _dropout(states: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return the result of `torch.nn.functional.dropout`."""
    if inplace or not training or not 0 < p < 1:
        return functional.dropout(states, p, training, inplace)
    return dropout(states, p)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Return the result of `torch.nn.functional.scaled_dot_product_attention`."""
    if dropout_p == 0 or is_causal or enable_gqa:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    return attention(query, key, value, attn_mask, dropout_p, query.shape[-1] ** -0.5 if scale is None else scale)


def fast_dropout(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a forward pass with dropout is fastest on a device."""
    return CpuDropout() if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()
