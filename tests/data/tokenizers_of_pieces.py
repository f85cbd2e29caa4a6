"""Tokenizers of the two common kinds, small enough to say by heart what they make of a text."""

from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("un", "##want", "##ed", "goal", "##s", "a", "b", "c", "d", "e", "f", "g", "h", "!")
MERGES = (("g", "o"), ("a", "l"), ("go", "al"), ("Ġ", "goal"), ("Ġ", "a"))


def wordpiece(**special: str) -> Any:
    """Return a tokenizer as BERT's, numbered from 0 as in `SPECIAL` and `PIECES`."""
    tokenizer = Tokenizer(
        WordPiece({piece: number for number, piece in enumerate(SPECIAL + PIECES)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **({"mask_token": "[MASK]"} | special),
    )


def byte_level() -> Any:
    """Return a tokenizer as RoBERTa's, which knows every byte and a few merges; a pair stands behind two `</s>`."""
    pieces = ["<s>", "</s>", "<mask>", "<pad>", *sorted(ByteLevel.alphabet()), *("".join(merge) for merge in MERGES)]
    tokenizer = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, list(MERGES)))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False, add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        mask_token="<mask>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )


def of_one_word() -> Any:
    """Return a tokenizer that cuts no text into words before it looks up tokens, as Llama 2's."""
    tokenizer = Tokenizer(BPE({"▁": 0, "o": 1, "n": 2, "e": 3, "t": 4, "w": 5}, []))
    tokenizer.pre_tokenizer = Metaspace(split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
