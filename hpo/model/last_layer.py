"""Last layer of encoders whose head reads the first token: it is computed for that token alone.

Attention needs the keys and values of all tokens; query, output projection and feed-forward network, 10 of 12 matrix
products of equal size, only those of the token that is read. Outputs are the same up to rounding, and dropout draws
fewer masks. Trials that train the head alone do not use this: the states that they cache are of all tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from hpo.model.methods import transformer_layers

Forward = Callable[..., Any]


def of_bert(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: object, **__: object) -> Tensor:
    """Return the output of a BERT layer for the first token; shape (rows, 1, width)."""
    attention, first = layer.attention.self, states[:, :1]
    products = attention.query(first), attention.key(states), attention.value(states)
    attended: Tensor = layer.attention.output(_attended(attention, *products, attention_mask), first)
    output: Tensor = layer.feed_forward_chunk(attended)
    return output


def of_distilbert(layer: Any, states: Tensor, attention_mask: Tensor | None = None, **_: object) -> Tensor:
    """Return the output of a DistilBERT layer for the first token; shape (rows, 1, width)."""
    attention, first = layer.attention, states[:, :1]
    products = attention.q_lin(first), attention.k_lin(states), attention.v_lin(states)
    attended = layer.sa_layer_norm(attention.out_lin(_attended(attention, *products, attention_mask)) + first)
    output: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
    return output


def _attended(attention: Any, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the values that queries of shape (rows, 1, width) attend to, in that shape.

    Args:
        attention: module with the sizes and the dropout.
        query: of the first token.
        keys: of all tokens, shape (rows, length, width).
        values: of all tokens.
        mask: shape (rows, 1, 1 or length, length).
    """

    def heads(products: Tensor) -> Tensor:
        return products.view(*products.shape[:2], -1, attention.attention_head_size).transpose(1, 2)

    context: Tensor = nn.functional.scaled_dot_product_attention(
        heads(query),
        heads(keys),
        heads(values),
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=attention.dropout.p if attention.training else 0.0,
        scale=attention.scaling,
    )
    return context.transpose(1, 2).flatten(2)


FIRST_TOKEN: Mapping[str, Forward] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), of_bert),
    "distilbert": of_distilbert,
}
"""Architecture -> forward of its last layer, for those whose classification heads read the first token."""


def first_token_forward(network: Any) -> dict[nn.Module, Forward]:
    """Return last layer -> its forward for the first token, for a network of transformers under a classifier's head.

    Empty if its head may read other tokens, or its attention is not torch's.
    """
    config = network.config
    is_known = type(network).__module__.startswith("transformers.") and type(network).__name__.endswith(
        "ForSequenceClassification"
    )
    is_plain = config._attn_implementation == "sdpa" and not getattr(config, "is_decoder", False)
    forward = FIRST_TOKEN.get(config.model_type) if is_known and is_plain else None
    if forward is None:
        return {}
    last = transformer_layers(network)[1][-1]
    return {last: partial(forward, last)}


@contextmanager
def forwards(replaced: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Replace `forward` of modules, which may itself be an instance's replacement of its class's."""
    own = {module: module.__dict__.get("forward") for module in replaced}
    for module, forward in replaced.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, before in own.items():
            del module.forward
            if before is not None:
                module.forward = before
