"""Tiny random networks of the architectures that people fine-tune, with a classification head of two labels."""

from typing import Any

from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    Qwen2Config,
    RobertaConfig,
    set_seed,
)

NUMBERS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32} | NUMBERS
ARCHITECTURES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "bert": (BertConfig, SMALL),
    "roberta": (RobertaConfig, SMALL),
    "electra": (ElectraConfig, SMALL | {"embedding_size": 16}),
    "distilbert": (DistilBertConfig, NUMBERS | {"vocab_size": 40, "dim": 16, "n_heads": 2, "hidden_dim": 32}),
    "deberta": (DebertaConfig, SMALL),
    "deberta_v2": (DebertaV2Config, SMALL | {"relative_attention": True, "pos_att_type": ["p2c"]}),
    "deberta_v3": (
        DebertaV2Config,
        SMALL
        | {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_buckets": 8,
            "conv_kernel_size": 3,
        },
    ),
    "mpnet": (MPNetConfig, SMALL),
    "modernbert": (ModernBertConfig, SMALL),
    "llama": (LlamaConfig, SMALL | {"num_key_value_heads": 2}),
    "qwen2": (Qwen2Config, SMALL | {"num_key_value_heads": 2}),
    "gpt2": (GPT2Config, NUMBERS | {"vocab_size": 40, "n_embd": 16, "n_head": 2}),
}


def tiny_network(name: str, layers: int = 3, **values: Any) -> Any:
    """Return a random network of an architecture, the same each time; `values` are further ones of its config."""
    kind, small = ARCHITECTURES[name]
    set_seed(0)
    return AutoModelForSequenceClassification.from_config(kind(**small, num_hidden_layers=layers), **values)
