"""Tokenizers of the two common kinds, small enough to say by heart what they make of a text."""

from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.processors import ByteLevel as ByteLevelProcessing
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

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


def unigram() -> Any:
    """Return a tokenizer as XLM-R's, whose special tokens are pieces too."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁a", -3.5)]
    pieces += [(letter, -4.0) for letter in "abdeglnostuwz</>[]"]
    tokenizer = Tokenizer(Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )


class InPython(PreTrainedTokenizer):  # type: ignore[misc]
    """A tokenizer of single letters without a Rust backend, which frames texts as XLNet's does: behind them."""

    def __init__(self, **given: Any) -> None:
        self._letters = {
            letter: number for number, letter in enumerate(("<unk>", "<sep>", "<cls>", *"abdeglnostuwz<>"))
        }
        special = {"unk_token": "<unk>", "sep_token": "<sep>", "cls_token": "<cls>", "eos_token": "<sep>"}
        super().__init__(**(special | given))

    @property
    def vocab_size(self) -> int:
        return len(self._letters)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._letters)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list("".join(text.split()))

    def _convert_token_to_id(self, token: str) -> int:
        return self._letters.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self._letters)[index]

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        return [*first, 1, 2] if second is None else [*first, 1, *second, 1, 2]

    def create_token_type_ids_from_sequences(self, first: list[int], second: list[int] | None = None) -> list[int]:
        return [0] * (len(first) + 1) + ([] if second is None else [1] * (len(second) + 1)) + [2]


def without_special() -> Any:
    """Return a tokenizer that puts nothing around a text, as GPT-2's."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = ByteLevelProcessing(trim_offsets=False)
    return tokenizer


TOKENIZERS = {
    "wordpiece": wordpiece(),
    "byte_level": byte_level(),
    "unigram": unigram(),
    "in_python": InPython(model_input_names=["input_ids", "token_type_ids", "attention_mask"]),
    "without_special": without_special(),
}
SPELLED = ("[SEP]", "[CLS]", "[MASK]", "[PAD]", "<s>", "</s>", "<mask>", "<sep>", "<cls>")
"""What special tokens of these look like in a text."""
