"""Texts into tokens, once a study: flat arrays of ragged rows, unpadded."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """Rows of tokens, one after the other in flat arrays."""

    ids: NDArray[np.int32]
    """Token numbers of all rows, shape (tokens,)."""
    offsets: NDArray[np.int64]
    """Row i is `ids[offsets[i]:offsets[i + 1]]`; shape (rows + 1,), from 0."""
    types: NDArray[np.int8] | None
    """Token types (0 in a text, 1 in its pair), shape (tokens,); None where the model has none."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, at least 1; shape (rows,)."""
        return np.diff(self.offsets)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what it is made of, by name: `Tokens.of` makes it again."""
        types = {} if self.types is None else {"types": self.types}
        return {"ids": self.ids, "offsets": self.offsets, **types}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "Tokens":
        """Return what `arrays` was asked of."""
        return cls(ids=arrays["ids"], offsets=arrays["offsets"], types=arrays.get("types"))

    def row(self, index: int) -> NDArray[np.int32]:
        """Return the tokens of one row; shape (length,)."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedSplit:
    """One split, ready to be batched."""

    tokens: Tokens
    labels: NDArray[np.int64]
    """Class number of each row; shape (rows,)."""


def tokenize(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Tokens:
    """Turn texts into tokens with the tokenizer's special tokens in place.

    Args:
        texts: one text a row.
        pairs: the second text of each row, or None.
        tokenizer: the model's.
        max_length: tokens after which a row is cut, special tokens among them; of a pair the longer is cut
            first.

    Raises:
        DataError: the special tokens alone fill `max_length`.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if special >= max_length:
        raise DataError(
            f"max_length is {max_length}, but the tokenizer adds {special} special tokens to each row; give "
            f"at least {special + 1}."
        )
    typed = "token_type_ids" in tokenizer.model_input_names
    ids: list[list[int]] = []
    types: list[list[int]] = []
    for encoded in _chunks(texts, pairs, tokenizer, max_length):
        ids.extend(encoded["input_ids"])
        types.extend(encoded["token_type_ids"] if typed else ())
    return _flat(ids, types if typed else None, tokenizer)


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return SHA-256, hexadecimal, over all that the tokens of a text follow from, beside the texts and their length.

    Args:
        tokenizer: as it was loaded: the use of it leaves traces in what it says of itself.
    """
    inside = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    # Of both kinds `repr` tells the class, the special tokens and on which side a text is cut.
    parts = [repr(tokenizer), tokenizer.model_input_names, inside]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def word_numbers(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> NDArray[np.int32]:
    """Tell which tokens are of one word: the pieces that the tokenizer cuts a text into before it looks them up.

    Args:
        texts: as `tokenize` was given.
        pairs: likewise.
        tokenizer: a fast one.
        max_length: likewise.

    Returns:
        Aligned with `Tokens.ids`, shape (tokens,). Twice the place of its word in the text, from 0; one more than that
        in the pair, so that the even numbers are the text's and the odd ones the pair's; -1 for a special token.
    """
    rows = [
        _words(encoded.word_ids(row), encoded.sequence_ids(row))
        for encoded in _chunks(texts, pairs, tokenizer, max_length)
        for row in range(len(encoded["input_ids"]))
    ]
    return _joined(rows, sum(map(len, rows)), np.int32)


def _words(places: list[int | None], halves: list[int | None]) -> list[int]:
    """Number the words of one row; a row without tokens gets a filler, which is of no word."""
    return [
        -1 if place is None or half is None else 2 * place + half for place, half in zip(places, halves, strict=True)
    ] or [-1]


def _chunks(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[Any]:
    """Yield what the tokenizer says of so many rows at a time that memory stays small."""
    typed = "token_type_ids" in tokenizer.model_input_names
    for start in range(0, len(texts), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        yield tokenizer(
            list(texts[chunk]),
            None if pairs is None else list(pairs[chunk]),
            truncation="longest_first",
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=typed,
            verbose=False,
        )


def _flat(ids: list[list[int]], types: list[list[int]] | None, tokenizer: "PreTrainedTokenizerBase") -> Tokens:
    filler = _filler(tokenizer)
    ids = [row or [filler] for row in ids]
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    return Tokens(
        ids=_joined(ids, int(offsets[-1]), np.int32),
        offsets=offsets,
        types=None if types is None else _joined([row or [0] for row in types], int(offsets[-1]), np.int8),
    )


def _joined(rows: list[list[int]], size: int, dtype: Any) -> NDArray[Any]:
    return np.fromiter(chain.from_iterable(rows), dtype=dtype, count=size)


def _filler(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token of a row that has none: a model pools some token, so each row needs one."""
    known = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((token for token in known if token is not None), 0)
