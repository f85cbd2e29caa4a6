"""A batch holds exactly its rows' tokens; every epoch and every evaluation sees each row once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.batching import collate, epoch_order, evaluation_batches, training_batches
from hpo.data.tokenization import TokenizedSplit
from tests.models import plain_tokens

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def split_of(rows: list[list[int]], types: bool = False) -> TokenizedSplit:
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    tokens = plain_tokens(ids, [*map(len, rows)], ids % 2 if types else None)
    return TokenizedSplit(tokens=tokens, labels=np.arange(len(rows), dtype=np.int64) * 10)


def test_rows_are_padded_on_the_right_to_the_longest_of_the_batch() -> None:
    batch = collate(split_of([[1, 2], [3], [4, 5, 6, 7], [8, 9, 10]], types=True), [3, 1, 0], pad_id=99)
    assert batch.input_ids.tolist() == [[8, 9, 10], [3, 99, 99], [1, 2, 99]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert batch.labels.tolist() == [30, 10, 0]
    assert (batch.rows, batch.tokens) == (3, 6)
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}


@given(data=st.data(), lengths=LENGTHS, multiple=st.sampled_from([1, 8]))
def test_masked_rows_are_the_tokens_of_the_split(data: st.DataObject, lengths: list[int], multiple: int) -> None:
    tokens = iter(range(100, 10_000))
    split = split_of([[next(tokens) for _ in range(length)] for length in lengths])
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20))
    batch = collate(split, chosen, pad_id=-1, multiple_of=multiple)
    assert batch.token_type_ids is None
    width = max(lengths[row] for row in chosen)
    assert batch.input_ids.shape == (len(chosen), -(-width // multiple) * multiple)
    for place, row in enumerate(chosen):
        assert batch.input_ids[place][: lengths[row]].tolist() == split.tokens.row(row).tolist()
        assert (batch.input_ids[place][lengths[row] :] == -1).all()
    assert torch.equal(batch.attention_mask, (batch.input_ids != -1).long())


@given(rows=st.integers(0, 200), size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 9))
def test_an_epoch_sees_each_row_once_in_batches_of_one_size(rows: int, size: int, seed: int, epoch: int) -> None:
    batches = training_batches(rows, size, seed, epoch)
    assert [row for batch in batches for row in batch.tolist()] == epoch_order(rows, seed, epoch).tolist()
    assert sorted(epoch_order(rows, seed, epoch).tolist()) == list(range(rows))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)


def test_the_order_is_of_seed_and_epoch_alone() -> None:
    assert epoch_order(8, seed=1, epoch=2).tolist() == epoch_order(8, seed=1, epoch=2).tolist()
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(lengths=LENGTHS, max_tokens=st.integers(1, 200), max_rows=st.integers(1, 20))
def test_evaluation_stays_within_its_budget_and_sees_each_row_once(
    lengths: list[int], max_tokens: int, max_rows: int
) -> None:
    batches = evaluation_batches(np.array(lengths), max_tokens=max_tokens, max_rows=max_rows)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    widths = [max(lengths[row] for row in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)
    for batch, width in zip(batches, widths, strict=True):
        assert 1 <= len(batch) <= max_rows
        assert len(batch) * width <= max_tokens or len(batch) == 1


@pytest.mark.parametrize(("budget", "rows"), [(12, [[1], [3, 0], [2]]), (100, [[1, 3, 0, 2]])])
def test_evaluation_groups_rows_of_like_length(budget: int, rows: list[list[int]]) -> None:
    batches = evaluation_batches(np.array([5, 9, 4, 6]), max_tokens=budget, max_rows=10)
    assert [batch.tolist() for batch in batches] == rows
