"""Flat tokens equal what the tokenizer gives for each row alone, for encoders, decoders and pairs."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hpo.data.tokenization import Tokens, tokenize, tokenizer_digest, word_numbers
from hpo.errors import DataError
from tests.data.tokenizers_of_pieces import SPELLED, TOKENIZERS, byte_level, unigram, wordpiece
from tests.models import row_of

WORDS = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5, "c": 6}


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def encoder_tokenizer() -> Any:
    tokenizer = word_tokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def decoder_tokenizer(**special: str) -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), model_input_names=["input_ids", "attention_mask"], **special
    )


def test_special_tokens_stand_around_a_cut_text() -> None:
    tokens = tokenize(["a b", "a b c a b c", ""], None, encoder_tokenizer(), max_length=5)
    assert [row_of(tokens, row).tolist() for row in range(tokens.rows)] == [[1, 4, 5, 2], [1, 4, 5, 6, 2], [1, 2]]
    assert tokens.lengths.tolist() == [4, 5, 2]
    assert tokens.types is not None
    assert [array.dtype.name for array in (tokens.ids, tokens.begins, tokens.types)] == ["int32", "int64", "int8"]


@pytest.mark.parametrize("tokenizer", [encoder_tokenizer(), decoder_tokenizer(pad_token="b")])
def test_tokens_are_made_again_of_their_arrays(tokenizer: Any) -> None:
    tokens = tokenize(["a b", "", "c"], None, tokenizer, max_length=5)
    arrays = tokens.arrays()
    again = Tokens(**arrays)
    assert ("types" in arrays) == (again.types is not None) == (tokens.types is not None)
    assert all(np.array_equal(again.arrays()[name], array) for name, array in arrays.items())


def test_a_digest_of_a_tokenizer_tells_what_tokens_follow_from() -> None:
    assert tokenizer_digest(encoder_tokenizer()) == tokenizer_digest(encoder_tokenizer())
    cut_on_the_left, lower, without_types = (encoder_tokenizer() for _ in range(3))
    cut_on_the_left.truncation_side = "left"
    lower.backend_tokenizer.normalizer = Lowercase()
    without_types.model_input_names = ["input_ids"]
    pads = [decoder_tokenizer(pad_token=token) for token in ("a", "b")]
    others = [cut_on_the_left, lower, without_types, *pads, wordpiece(), byte_level()]
    assert len({tokenizer_digest(tokenizer) for tokenizer in (encoder_tokenizer(), *others)}) == 8


def test_of_a_pair_the_longer_is_cut_first() -> None:
    tokens = tokenize(["a"], ["b b b b b b"], encoder_tokenizer(), max_length=7)
    assert row_of(tokens, 0).tolist() == [1, 4, 2, 5, 5, 5, 2]
    assert tokens.types is not None
    assert tokens.types[tokens.positions(np.array([0]))].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_many_rows_equal_each_row_alone() -> None:
    tokenizer = encoder_tokenizer()
    texts = [" ".join("abcx"[(row * place) % 4] for place in range(row % 11)) for row in range(2500)]
    tokens = tokenize(texts, None, tokenizer, max_length=8)
    assert tokens.rows == 2500
    for row in (0, 1, 999, 1000, 1001, 2499):
        assert row_of(tokens, row).tolist() == tokenizer(texts[row], truncation=True, max_length=8)["input_ids"]


def test_the_tokens_that_occur_are_those_of_any_row_as_it_is_cut() -> None:
    tokenizer = encoder_tokenizer()
    tokens = tokenize(["a a b"] * 1500 + ["a a a c"], None, tokenizer, max_length=8)
    assert tokens.used().tolist() == sorted(tokenizer("a b c")["input_ids"])
    assert tokens.cut(tokenizer, 5).used().tolist() == sorted(tokenizer("a b")["input_ids"])
    assert tokenize([], None, tokenizer, max_length=8).used().tolist() == []


@pytest.mark.parametrize(
    ("special", "filler"), [({"eos_token": "c", "pad_token": "b"}, 6), ({"pad_token": "b"}, 5), ({}, 0)]
)
def test_a_text_without_any_token_gets_one(special: dict[str, str], filler: int) -> None:
    tokens = tokenize(["a", "", " \n"], None, decoder_tokenizer(**special), max_length=4)
    assert [row_of(tokens, row).tolist() for row in range(3)] == [[4], [filler], [filler]]
    assert tokens.types is None


def test_no_rows_are_no_tokens() -> None:
    tokens = tokenize([], None, encoder_tokenizer(), max_length=8)
    assert (tokens.rows, tokens.ids.tolist(), tokens.lengths.tolist()) == (0, [1, 2], [])


def test_a_length_that_special_tokens_fill_is_refused() -> None:
    with pytest.raises(
        DataError, match="max_length is 3, but each row has 3 tokens beside its text, special ones or those of"
    ):
        tokenize(["a"], ["b"], encoder_tokenizer(), max_length=3)


def tokens_and_words(
    texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
) -> tuple[list[int], list[int]]:
    """Return the tokens of all rows and their words, row after row."""
    tokens, words = (make(texts, pairs, tokenizer, max_length) for make in (tokenize, word_numbers))
    places = tokens.positions(np.arange(tokens.rows))
    return tokens.ids[places].tolist(), words[places].tolist()


def test_pieces_of_one_word_have_one_number() -> None:
    texts = ["unwanted goals!", "a", ""]
    tokens, words = tokens_and_words(texts, None, wordpiece(), 16)
    assert words == [-1, 0, 0, 0, 2, 2, 4, -1, -1, 0, -1, -1, -1]
    assert tokens == [token for text in texts for token in wordpiece()(text)["input_ids"]]


def test_words_of_a_pair_are_odd() -> None:
    _, words = tokens_and_words(["unwanted a"], ["b goals"], wordpiece(), 16)
    assert words == [-1, 0, 0, 0, 2, -1, 1, 3, 3, -1]
    _, words = tokens_and_words(["go b"], ["a c!"], byte_level(), 16)
    assert words == [-1, 0, 2, 2, -1, -1, 1, 3, 3, 5, -1]


def test_words_are_cut_where_tokens_are() -> None:
    _, words = tokens_and_words(["unwanted goals"], ["a b c d e f g h"], wordpiece(), 9)
    assert words == [-1, 0, 0, 0, -1, 1, 3, 5, -1]


def test_a_text_without_any_token_has_no_word() -> None:
    texts = ["a", "", "b"]
    assert tokens_and_words(texts, None, decoder_tokenizer(), 4) == ([4, 0, 5], [0, -1, 0])


@pytest.mark.parametrize("tokenizer", [wordpiece(), byte_level()], ids=["wordpiece", "byte_level"])
def test_words_stand_beside_their_tokens_over_many_rows(tokenizer: Any) -> None:
    texts = [
        " ".join(("unwanted", "goal", "!", "a")[(row * place) % 4] for place in range(row % 9)) for row in range(2500)
    ]
    pairs = [text[::-1] for text in texts]
    tokens, words = tokenize(texts, pairs, tokenizer, 14), word_numbers(texts, pairs, tokenizer, 14)
    assert words.dtype == np.int32
    assert words.shape == tokens.ids.shape
    special = np.isin(tokens.ids, tokenizer("")["input_ids"])
    assert np.array_equal(words < 0, special)


TEXTS = st.lists(st.sampled_from(["a", "b", "goal", "unwanted", "zz", *SPELLED]), max_size=12).map(" ".join)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    paired=st.booleans(),
    kind=st.sampled_from(sorted(TOKENIZERS)),
    side=st.sampled_from(["left", "right"]),
    longest=st.integers(5, 40),
    data=st.data(),
)
def test_a_cut_equals_what_the_tokenizer_gives_at_that_length(
    rows: list[tuple[str, str]], paired: bool, kind: str, side: str, longest: int, data: st.DataObject
) -> None:
    """Also of a cut, of pairs of any lengths, of fast tokenizers and of one in Python."""
    tokenizer = TOKENIZERS[kind]
    tokenizer.truncation_side = side
    texts, pairs = [text for text, _ in rows], [pair for _, pair in rows] if paired else None
    tokens = tokenize(texts, pairs, tokenizer, longest)
    for length in (longest, data.draw(st.integers(5, longest)), 5):
        tokens = tokens.cut(tokenizer, length)
        for row, (text, pair) in enumerate(rows):
            # As lists, because one empty pair alone is taken for none.
            expected = tokenizer(
                [text],
                [pair] if paired else None,
                truncation="longest_first",
                max_length=length,
                split_special_tokens=True,
                return_token_type_ids=True,
            )
            (ids,), (types,), found = expected["input_ids"], expected["token_type_ids"], row_of(tokens, row).tolist()
            # The unigram one sets what only it may set; left, the one in Python takes an empty pair for none.
            if kind == "unigram" or (kind, side, pair) == ("in_python", "left", ""):
                continue
            assert not ids or found == ids
            assert tokens.lengths[row] == len(found) == max(1, len(ids))
            if tokens.types is not None:
                assert tokens.types[tokens.positions(np.array([row]))].tolist() == types


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("paired", [False, True], ids=["text", "pair"])
def test_no_text_brings_a_special_token_of_its_own(kind: str, paired: bool) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = ["a", *SPELLED, " ".join(SPELLED), "".join(SPELLED)]
    tokens = tokenize(texts, texts if paired else None, tokenizer, 200)
    unknown = tokenizer.unk_token_id
    special = [number for number in tokenizer.all_special_ids if number != unknown]
    counts = [int(np.isin(row_of(tokens, row), special).sum()) for row in range(tokens.rows)]
    assert set(counts) == {tokenizer.num_special_tokens_to_add(pair=paired)}
    # It is text like any other, not left out.
    assert all(tokens.lengths[1:] > counts[0])


def test_a_piece_that_is_spelled_as_a_special_token_is_unknown() -> None:
    """A unigram model knows `</s>` as a piece, however it is told to split special tokens."""
    tokenizer = unigram()
    assert (
        tokenizer.eos_token_id in tokenizer("a</s>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    )
    assert row_of(tokenize(["a</s>"], None, tokenizer, 16), 0).tolist() == [4, 0, 2]


FORKED = """
import os
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from hpo.data.tokenization import tokenize
words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="b")))
tokenize(["a"] * 3000, None, words, 4)
child = os.fork()
if child == 0:
    words(["a"] * 3000)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_after_tokenizing_neither_warns_nor_hangs() -> None:
    plain = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    # From 3.12 on Python itself warns of any fork of a process with threads.
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        env=plain,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
