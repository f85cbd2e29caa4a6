"""Tiny random language models with the heads that they would be pretrained with, and tokenizers for them."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
    set_seed,
)

from tests.data.tokenizers_of_pieces import without_special
from tests.models import WORDS

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
VOCABULARY = (*SPECIAL, *WORDS, "sport", "money", "news", "A", "B", "Text", "Label", ":", ".", ",", "?")
"""Of `word_tokenizer`, numbered from 0; any other word is unknown."""
SHAPE = {
    "vocab_size": 280, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    # Large enough that what a token sees decides what it says.
    "initializer_range": 0.4, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
DECODERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2, "tie_word_embeddings": False}),
    "mistral": (MistralConfig, {"num_key_value_heads": 2, "sliding_window": 64}),
    "gpt2": (GPT2Config, {"resid_pdrop": 0.3}),
    "bloom": (BloomConfig, {"n_head": 2}),
}
MASKED: dict[str, type[Any]] = {"bert": BertConfig, "roberta": RobertaConfig}


def decoder(name: str, **options: Any) -> Any:
    """Return a random decoder, the same each time, in evaluation mode."""
    kind, values = DECODERS[name]
    set_seed(0)
    return AutoModelForCausalLM.from_config(kind(**SHAPE, **values), **options).eval()


def masked_model(name: str) -> Any:
    """Return a random masked model, the same each time, in evaluation mode."""
    set_seed(0)
    return AutoModelForMaskedLM.from_config(MASKED[name](**SHAPE)).eval()


def word_tokenizer(*, framed: bool = False, **special: str | None) -> Any:
    """Return a tokenizer of whole words; `framed` puts `<s>` and `</s>` around a text."""
    numbers = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    if framed:
        tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    known = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>", "mask_token": "<mask>"} | special
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **{name: token for name, token in known.items() if token},
    )


def byte_tokenizer() -> Any:
    """Return a tokenizer as GPT-2's, of single letters and a few longer pieces, that writes texts back."""
    tokenizer = without_special()
    tokenizer.backend_tokenizer.decoder = ByteLevel()
    return tokenizer


def save_tiny_decoder(folder: Path, name: str = "llama") -> Path:
    """Save a random decoder, by default a Llama with a tied language-model head, and a tokenizer of words."""
    decoder(name).save_pretrained(folder)
    word_tokenizer(mask_token=None).save_pretrained(folder)
    return folder


def save_tiny_masked_model(folder: Path) -> Path:
    """Save a random BERT with its language-model head, and a tokenizer of words."""
    masked_model("bert").save_pretrained(folder)
    word_tokenizer(framed=True).save_pretrained(folder)
    return folder
