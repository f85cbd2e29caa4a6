"""Words are swapped whole and within their own text, tokens masked as often as asked; all else stays."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CanineTokenizer

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.augmentation import Augmentation, augmentation, refuse_token_masking, refuse_word_swap
from hpo.data.batching import Batch, collate
from hpo.data.tokenization import TokenizedSplit, tokenize, word_numbers
from hpo.errors import ModelError
from tests.data.tokenizers_of_pieces import byte_level, of_one_word, wordpiece
from tests.models import row_of

TOKENIZERS = {"wordpiece": wordpiece(), "byte_level": byte_level()}
MASK = {"wordpiece": 4, "byte_level": 2}
LENGTH = 40

WORD = st.sampled_from(["unwanted", "goals", "goal", "a", "b", "!", "unwanteds"])
TEXT = st.lists(WORD, max_size=12).map(" ".join)


def augmented(
    tokenizer: Any, texts: list[str], pairs: list[str] | None, seed: int, **values: float
) -> tuple[Batch, Batch, Augmentation]:
    """Return a batch of all rows, last first, as it was and as it became, and what made it so."""
    tokens = tokenize(texts, pairs, tokenizer, LENGTH)
    words = word_numbers(texts, pairs, tokenizer, LENGTH)
    made = augmentation(Hyperparameters.model_validate(values), tokens, words, tokenizer)
    assert made is not None
    rows = np.arange(len(texts))[::-1]
    before = collate(TokenizedSplit(tokens=tokens, targets=np.arange(len(texts))), rows, tokenizer.pad_token_id)
    return before, made.apply(before, rows, np.random.default_rng(seed)), made


def pieces(tokenizer: Any, text: str, seed: int = 0, pair: str | None = None, **values: float) -> str:
    _, after, _ = augmented(tokenizer, [text], None if pair is None else [pair], seed, **values)
    return " ".join(tokenizer.convert_ids_to_tokens(after.inputs["input_ids"][0].tolist()))


def test_a_trial_that_asks_for_nothing_has_none() -> None:
    tokens = tokenize(["a"], None, TOKENIZERS["wordpiece"], 8)
    assert augmentation(Hyperparameters(), tokens, None, TOKENIZERS["wordpiece"]) is None


def test_two_words_change_places_whole() -> None:
    swapped = pieces(TOKENIZERS["wordpiece"], "unwanted goals", word_swap=0.5)
    assert swapped == "[CLS] goal ##s un ##want ##ed [SEP]"
    assert pieces(TOKENIZERS["byte_level"], "b goal", word_swap=0.5) == "<s> Ġgoal b </s>"


def test_a_text_and_its_pair_never_mix() -> None:
    swapped = pieces(TOKENIZERS["wordpiece"], "unwanted a", pair="b goals", word_swap=0.5)
    assert swapped == "[CLS] a un ##want ##ed [SEP] goal ##s b [SEP]"
    assert pieces(TOKENIZERS["byte_level"], "b goal", pair="c a", word_swap=0.5) == "<s> Ġgoal b </s> </s> Ġa c </s>"


@pytest.mark.parametrize(("share", "moved"), [(0.0625, 0), (0.07, 2), (0.125, 2), (0.18, 2)])
def test_so_many_swaps_as_the_share_of_the_words_rounded(share: float, moved: int) -> None:
    before, after, _ = augmented(TOKENIZERS["wordpiece"], ["a b c d e f g h"], None, 1, word_swap=share)
    assert int((before.inputs["input_ids"] != after.inputs["input_ids"]).sum()) == moved


def test_each_pair_of_words_is_as_likely() -> None:
    tokenizer, draws = TOKENIZERS["wordpiece"], 3000
    tokens, words = tokenize(["a b c d"], None, tokenizer, 8), word_numbers(["a b c d"], None, tokenizer, 8)
    swaps = Augmentation(tokens=tokens, words=words, word_swap=0.25)
    batch = collate(TokenizedSplit(tokens=tokens, targets=np.zeros(1, dtype=np.int64)), [0], 0)
    generator = np.random.default_rng(0)
    seen = Counter(
        tuple(swaps.apply(batch, np.array([0]), generator).inputs["input_ids"][0].tolist()) for _ in range(draws)
    )
    assert len(seen) == 6
    spread = math.sqrt(draws * 1 / 6 * 5 / 6)
    assert all(abs(count - draws / 6) < 5 * spread for count in seen.values())


@given(
    rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5),
    paired=st.booleans(),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(sorted(TOKENIZERS)),
)
def test_swapping_leaves_every_word_in_its_text(
    rows: list[tuple[str, str]], paired: bool, share: float, seed: int, kind: str
) -> None:
    texts, pairs = [text for text, _ in rows], [pair for _, pair in rows] if paired else None
    before, after, made = augmented(TOKENIZERS[kind], texts, pairs, seed, word_swap=share)
    assert made.words is not None
    for place, row in enumerate(reversed(range(len(rows)))):
        numbers = made.words[made.tokens.positions(np.array([row]))]
        was, became = before.inputs["input_ids"][place].numpy(), after.inputs["input_ids"][place].numpy()
        assert (was[len(numbers) :] == became[len(numbers) :]).all()
        was, became = was[: len(numbers)], became[: len(numbers)]
        assert (was[numbers < 0] == became[numbers < 0]).all()
        for half in (0, 1):
            own = (numbers >= 0) & (numbers % 2 == half)
            left = became[own].tolist()
            words = [was[numbers == number].tolist() for number in np.unique(numbers[own])]
            assert Counter(left) == Counter(was[own].tolist())
            # Each word still stands whole.
            assert all(any(left[start : start + len(word)] == word for start in range(len(left))) for word in words)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_masking_near_one_leaves_special_tokens_alone(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    before, after, _ = augmented(
        tokenizer, ["unwanted goal", "a", ""], ["b", "goals a", "c"], 0, token_masking=0.999999
    )
    special = torch.isin(before.inputs["input_ids"], torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(after.inputs["input_ids"][special], before.inputs["input_ids"][special])
    assert set(after.inputs["input_ids"][~special].tolist()) == {MASK[kind]}
    assert (~special).sum() > 5


def test_the_expected_share_is_masked() -> None:
    texts, probability = ["a b c d e f g h " * 4] * 300, 0.15
    _, after, _ = augmented(TOKENIZERS["wordpiece"], texts, None, 3, token_masking=probability)
    tokens = 300 * 32
    spread = math.sqrt(tokens * probability * (1 - probability))
    assert abs(int((after.inputs["input_ids"] == 4).sum()) - tokens * probability) < 4 * spread


def test_only_tokens_of_a_text_are_masked_whatever_is_called_special() -> None:
    tokens = tokenize(["a b", "a"], None, TOKENIZERS["wordpiece"], 8)
    batch = collate(TokenizedSplit(tokens=tokens, targets=np.zeros(2, dtype=np.int64)), [0, 1], 9)
    made = Augmentation(tokens=tokens, token_masking=0.999999, mask_id=4).apply(
        batch, np.array([0, 1]), np.random.default_rng(0)
    )
    assert made.inputs["input_ids"].tolist() == [[2, 4, 4, 3], [2, 4, 3, 9]]


def test_words_are_swapped_before_tokens_are_masked() -> None:
    assert pieces(TOKENIZERS["wordpiece"], "a b", word_swap=0.5, token_masking=1e-9) == "[CLS] b a [SEP]"
    everything = pieces(TOKENIZERS["wordpiece"], "a b", word_swap=0.5, token_masking=0.999999)
    assert everything == "[CLS] [MASK] [MASK] [SEP]"


def test_all_but_the_tokens_stays_and_so_does_the_batch_given() -> None:
    texts = ["a b c d e f g h", "unwanted goals a b c"]
    before, after, made = augmented(TOKENIZERS["wordpiece"], texts, None, 0, word_swap=0.9, token_masking=0.5)
    assert after.inputs["attention_mask"] is before.inputs["attention_mask"]
    assert after.inputs["token_type_ids"] is before.inputs["token_type_ids"]
    assert after.targets is before.targets
    assert after.inputs["input_ids"].dtype is torch.int64
    assert not torch.equal(after.inputs["input_ids"], before.inputs["input_ids"])
    untouched = tokenize(texts, None, TOKENIZERS["wordpiece"], LENGTH)
    assert before.inputs["input_ids"][0][: untouched.lengths[1]].tolist() == row_of(untouched, 1).tolist()
    assert np.array_equal(made.tokens.ids, untouched.ids)


def test_the_generator_alone_decides() -> None:
    texts = ["a b c d e f g h", "unwanted goals a b c"]

    def made(seed: int) -> list[list[int]]:
        _, after, _ = augmented(TOKENIZERS["wordpiece"], texts, None, seed, word_swap=0.4, token_masking=0.2)
        rows: list[list[int]] = after.inputs["input_ids"].tolist()
        return rows

    assert made(7) == made(7)
    assert len({str(made(seed)) for seed in range(5)}) == 5


def test_masking_without_a_mask_token_is_refused() -> None:
    tokenizer = wordpiece(mask_token=None)
    tokens = tokenize(["a"], None, tokenizer, 8)
    with pytest.raises(ModelError, match="token_masking is given, but the model's tokenizer has no mask token; leave"):
        augmentation(Hyperparameters(token_masking=0.1), tokens, None, tokenizer)
    refuse_token_masking(TOKENIZERS["wordpiece"])


@pytest.mark.parametrize("tokenizer", [of_one_word(), CanineTokenizer()], ids=["splits no words", "slow"])
def test_swapping_without_words_is_refused(tokenizer: Any) -> None:
    with pytest.raises(
        ModelError, match="word_swap is given, but the model's tokenizer does not tell words apart; lea"
    ):
        refuse_word_swap(tokenizer)
    for kind in TOKENIZERS.values():
        refuse_word_swap(kind)
