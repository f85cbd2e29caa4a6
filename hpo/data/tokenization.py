"""Tokenization: texts as flat arrays of unpadded rows, once per study; each `max_length` uses a part of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ROWS, CHUNK_PAIRS = 1000, 100
"""Texts per call of the tokenizer; fewer for pairs, which are returned uncut."""
BARE: Mapping[str, Any] = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
"""Tokenizer options: add no special tokens, and split what looks like one as plain text."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """Tokens of rows: special tokens (including a prompt's), stored once for all rows, and the texts of each row."""

    ids: NDArray[np.int32]
    """Token ids: the special tokens of a row, then all first texts, then all second texts; shape (tokens,)."""
    types: NDArray[np.int8] | None = None
    """Token types (0 in a text, 1 in its pair), shape (tokens,); None if the model has none."""
    layout: NDArray[np.int64]
    """Parts of a row in order: the index of a special token in `ids`, -1 for its text, -2 for its pair."""
    begins: NDArray[np.int64]
    """Start of each row's texts in `ids`; shape (1, rows), or (2, rows) for pairs."""
    sizes: NDArray[np.int64]
    """Number of tokens of each text; same shape as `begins`."""
    whole: NDArray[np.int64]
    """Number of tokens before truncation, as far as truncation depends on it; same shape."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.sizes.shape[1])

    @property
    def special(self) -> int:
        """Number of special tokens in each row."""
        return int((self.layout >= 0).sum())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, at least 1; shape (rows,)."""
        return self.lengths_of(np.arange(self.rows))

    def lengths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of tokens of each of `rows`; shape (rows,)."""
        lengths: NDArray[np.int64] = self.sizes[:, rows].sum(axis=0) + self.special
        return lengths

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions in `ids` of the tokens of `rows`, row after row; shape (tokens,)."""
        parts = [(np.full(len(rows), part), np.ones(len(rows), dtype=np.int64)) for part in self.layout]
        for place, part in enumerate(self.layout):
            if part < 0:
                parts[place] = (self.begins[-1 - part, rows], self.sizes[-1 - part, rows])
        begins, sizes = (np.stack(of_parts, axis=1).ravel() for of_parts in zip(*parts, strict=True))
        positions: NDArray[np.int64] = np.arange(sizes.sum()) + np.repeat(begins - (np.cumsum(sizes) - sizes), sizes)
        return positions

    def used(self) -> NDArray[np.int64]:
        """Return the token ids that occur in the rows, in rising order, each once."""
        # Marked, not sorted, a chunk of rows at a time: a search over lengths asks before each trial.
        occurs = np.zeros(self.ids.max(initial=-1) + 1, dtype=bool)
        for start in range(0, self.rows, CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, self.rows))
            occurs[self.ids[self.positions(rows)]] = True
        return np.flatnonzero(occurs)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name: `Tokens(**arrays)` is equal to this object."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}

    def cut(self, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> "Tokens":
        """Return the rows truncated to `max_length` tokens, as `tokenizer` does; the flat arrays are the same.

        Args:
            tokenizer: the one that made them.
            max_length: most tokens of a row, including special ones; at most the length they were truncated to before.
                Of a pair, the longer text is cut first.

        Raises:
            DataError: the special tokens, or those of a prompt, alone fill `max_length`.
        """
        if self.special >= max_length:
            raise DataError(
                f"max_length is {max_length}, but each row has {self.special} tokens beside its text, special ones or "
                f"those of the prompt; give at least {self.special + 1}."
            )
        sizes = _kept(self.whole, max_length - self.special, odd_to_first=not tokenizer.is_fast)
        begins = self.begins + (self.sizes - sizes if tokenizer.truncation_side == "left" else 0)
        return replace(self, begins=begins, sizes=sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Tokens around the texts of each row, the same in all rows."""

    ids: tuple[int, ...]
    """Token ids, including those that the tokenizer adds."""
    layout: tuple[int, ...]
    """As in `Tokens`."""
    gaps: tuple[str, ...]
    """Prefix with which a text, and its pair if there is one, is tokenized: a space, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedSplit:
    """One split, ready to be batched."""

    tokens: Tokens
    targets: NDArray[Any]
    """Targets of the rows, as the task defines them; shape (rows, ...)."""
    source: str = ""
    """Text that identifies everything that determines the tokens; empty if unknown."""


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    prompt: Prompt | None = None,
) -> Tokens:
    """Tokenize texts, with the tokenizer's special tokens or a prompt around them.

    What looks like a special token in a text is split into ordinary pieces.

    Args:
        texts: one for each row.
        pairs: the second text of each row, or None.
        tokenizer: the model's.
        max_length: most tokens of a row; see `Tokens.cut`.
        prompt: tokens around the texts, made by this tokenizer for as many texts per row; None for special tokens only.

    Raises:
        DataError: the special tokens or the prompt alone fill `max_length`.
        ModelError: the tokenizer tokenizes a text differently between its special tokens.
    """
    sides, (layout, special, types) = _framed(texts, pairs, tokenizer, prompt)
    found = [_ids_and_lengths(side, tokenizer, max_length, whole=pairs is not None) for side in sides]
    whole = np.stack([lengths for _, lengths in found])
    sizes = np.minimum(whole, max_length)
    begins = len(special) + np.cumsum(sizes.ravel()).reshape(sizes.shape) - sizes
    if len(layout) == len(sides):
        # A model pools some token, so each row needs one.
        empty = np.flatnonzero(whole.sum(axis=0) == 0)
        begins[0, empty], sizes[0, empty], whole[0, empty] = 0, 1, 1
    flat = [np.array(special, dtype=np.int32), *(_without_control_tokens(ids, tokenizer) for ids, _ in found)]
    of_sides = [np.full(ids.size, of_side) for (ids, _), of_side in zip(found, types[len(special) :], strict=True)]
    typed = "token_type_ids" in tokenizer.model_input_names
    return Tokens(
        ids=np.concatenate(flat),
        types=np.concatenate([types[: len(special)], *of_sides]).astype(np.int8) if typed else None,
        layout=np.array(layout),
        begins=begins,
        sizes=sizes,
        whole=whole,
    ).cut(tokenizer, max_length)


def _kept(whole: NDArray[np.int64], room: int, *, odd_to_first: bool) -> NDArray[np.int64]:
    """Return how many tokens of each text remain if a row has `room` for them: transformers' `longest_first`.

    Each text of a pair gets half, plus what the other does not use. The odd token goes to the longer text (with fast
    tokenizers; of equal lengths, to the second), or always to the first.
    """
    if len(whole) == 1:
        return np.minimum(whole, room)
    first, second = whole
    half = room // 2 + (room % 2) * ((first > second) | odd_to_first)
    least = np.stack([half, room - half])
    kept: NDArray[np.int64] = np.minimum(whole, np.maximum(room - whole[::-1], least))
    return kept


def _framed(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Prompt | None,
) -> tuple[Sequence[Sequence[str]], tuple[tuple[int, ...], list[int], list[int]]]:
    """Return the texts to tokenize for each row, and the result of `_layout`."""
    sides = [texts] if pairs is None else [texts, pairs]
    if prompt is None:
        return sides, _layout(sides, tokenizer)
    spaced = [[f"{gap}{text}" for text in side] for gap, side in zip(prompt.gaps, sides, strict=True)]
    return spaced, (prompt.layout, list(prompt.ids), [0] * (len(prompt.ids) + len(sides)))


def _layout(
    sides: Sequence[Sequence[str]], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[tuple[int, ...], list[int], list[int]]:
    """Return the layout of a row, its special tokens, and the token types of these and of each of its texts.

    If there are no special tokens, a filler takes their place, for rows without any token.
    """

    def bare(text: str) -> list[int]:
        return list(tokenizer(text, **BARE)["input_ids"])

    # Take a text that has tokens; for texts that all have none the position does not matter.
    tried = [next((text for text in ("one", *side) if bare(text)), "") for side in sides]
    row = tokenizer(*tried, split_special_tokens=True, return_token_type_ids=True, verbose=False)
    ids, types = list(row["input_ids"]), list(row["token_type_ids"])
    layout: list[int] = []
    of_sides: list[int] = []
    begin = 0
    for number, text in enumerate(tried):
        tokens = bare(text)
        starts = range(begin, len(ids) - len(tokens) + 1)
        found = next((start for start in starts if ids[start : start + len(tokens)] == tokens), None)
        if found is None:
            raise ModelError(f"The tokenizer changes the text {text[:60]!r} where it puts special tokens around it.")
        of_sides.append(types[found] if tokens else number)
        del ids[found : found + len(tokens)], types[found : found + len(tokens)]
        layout += [*range(begin, found), -1 - number]
        begin = found
    layout += range(begin, len(ids))
    return tuple(layout), ids or [_filler_token(tokenizer)], [*(types if ids else [0]), *of_sides]


def tokenizer_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return SHA-256, hexadecimal, over everything that determines the tokens of a text except its length limit.

    Args:
        tokenizer: freshly loaded, because its use changes its state.
    """
    inside = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    # For both kinds, `repr` contains the class, the special tokens and the truncation side.
    parts = [repr(tokenizer), tokenizer.model_input_names, inside]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def word_numbers(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    prompt: Prompt | None = None,
) -> NDArray[np.int32]:
    """Return which tokens belong to one word: the pieces into which the tokenizer splits a text before its vocabulary.

    Args:
        texts: as for `tokenize`.
        pairs: as for `tokenize`.
        tokenizer: the model's; it must be a fast one.
        max_length: as for `tokenize`.
        prompt: as for `tokenize`.

    Returns:
        Aligned with `Tokens.ids`, shape (tokens,): for a token of the text, twice the index of its word; for a token of
        the pair, twice the index plus 1; -1 for any other token.
    """
    sides, (_, special, _) = _framed(texts, pairs, tokenizer, prompt)
    words = [np.full(len(special), -1, dtype=np.int32)]
    for number, side in enumerate(sides):
        for encoded in _chunks(side, tokenizer, None if pairs else max_length):
            rows = range(len(encoded["input_ids"]))
            places = [_cut(encoded.word_ids(row), tokenizer, max_length) for row in rows]
            numbers = (-1 if place is None else 2 * place + number for place in chain.from_iterable(places))
            words.append(np.fromiter(numbers, dtype=np.int32))
    return np.concatenate(words)


def _ids_and_lengths(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_length: int, *, whole: bool
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return at most `max_length` tokens of each text, concatenated, and their number (uncut if `whole`)."""
    flat, lengths = [np.zeros(0, dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
    for encoded in _chunks(texts, tokenizer, None if whole else max_length):
        rows = encoded["input_ids"]
        lengths.append(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
        flat.append(np.fromiter(chain.from_iterable(_cut(row, tokenizer, max_length) for row in rows), np.int32))
    return np.concatenate(flat), np.concatenate(lengths)


def _cut(row: list[Any], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[Any]:
    """Return the part of a row that the tokenizer keeps."""
    return row[-max_length:] if tokenizer.truncation_side == "left" else row[:max_length]


def _chunks(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_length: int | None) -> Iterator[Any]:
    """Yield the tokenizer's output for chunks of texts, to bound memory; uncut for a length of None."""
    rows = CHUNK_PAIRS if max_length is None else CHUNK_ROWS
    for start in range(0, len(texts), rows):
        chunk, cut = list(texts[start : start + rows]), max_length is not None
        ids_only = {"return_attention_mask": False, "return_token_type_ids": False}
        yield tokenizer(chunk, truncation=cut, max_length=max_length, **ids_only, **BARE)


def _without_control_tokens(ids: NDArray[np.int32], tokenizer: "PreTrainedTokenizerBase") -> NDArray[np.int32]:
    """Return the tokens of texts with control tokens replaced by the unknown token.

    A unigram model finds `</s>` in a text even if special tokens are split, because it is a piece like any other.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        # Such a tokenizer spells unknown text in smaller pieces.
        return ids
    added = [number for number, token in tokenizer.added_tokens_decoder.items() if token.special]
    control = {*tokenizer.all_special_ids, *added} - {unknown}
    return np.where(np.isin(ids, list(control)), np.int32(unknown), ids)


def _filler_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token for a row that has none."""
    known = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((token for token in known if token is not None), 0)
