"""A batch holds exactly its rows' tokens; every epoch and every evaluation sees each row once."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.batching import collate, evaluation_batches, split_by_length, training_batches
from hpo.data.tokenization import TokenizedSplit
from tests.models import plain_tokens, row_of

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def split_of(rows: list[list[int]], types: bool = False) -> TokenizedSplit:
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    tokens = plain_tokens(ids, [*map(len, rows)], ids % 2 if types else None)
    return TokenizedSplit(tokens=tokens, targets=np.arange(len(rows), dtype=np.int64) * 10)


def test_rows_are_padded_on_the_right_to_the_longest_of_the_batch() -> None:
    batch = collate(split_of([[1, 2], [3], [4, 5, 6, 7], [8, 9, 10]], types=True), [3, 1, 0], pad_id=99)
    assert batch.inputs["input_ids"].tolist() == [[8, 9, 10], [3, 99, 99], [1, 2, 99]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert batch.targets.tolist() == [30, 10, 0]
    assert (batch.rows, batch.lengths.sum()) == (3, 6)
    assert {batch.inputs["input_ids"].dtype, batch.inputs["attention_mask"].dtype, batch.targets.dtype} == {torch.int64}


@given(data=st.data(), lengths=LENGTHS)
def test_masked_rows_are_the_tokens_of_the_split(data: st.DataObject, lengths: list[int]) -> None:
    tokens = iter(range(100, 10_000))
    split = split_of([[next(tokens) for _ in range(length)] for length in lengths])
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20))
    batch = collate(split, chosen, pad_id=-1)
    assert "token_type_ids" not in batch.inputs
    width = max(lengths[row] for row in chosen)
    assert batch.inputs["input_ids"].shape == (len(chosen), width)
    for place, row in enumerate(chosen):
        assert batch.inputs["input_ids"][place][: lengths[row]].tolist() == row_of(split.tokens, row).tolist()
        assert (batch.inputs["input_ids"][place][lengths[row] :] == -1).all()
    assert torch.equal(batch.inputs["attention_mask"], (batch.inputs["input_ids"] != -1).long())


@given(rows=st.integers(0, 200), size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 9))
def test_an_epoch_sees_each_row_once_in_batches_of_one_size(rows: int, size: int, seed: int, epoch: int) -> None:
    batches = training_batches(rows, size, seed, epoch)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(rows))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)


def test_the_order_is_of_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int, size: int = 50) -> tuple[int, ...]:
        return tuple(np.concatenate(training_batches(50, size, seed, epoch)).tolist())

    assert order(1, 2) == order(1, 2) == order(1, 2, size=7)
    assert len({order(seed, epoch) for seed in range(5) for epoch in range(5)}) == 25


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


def cheapest(lengths: list[int], pass_tokens: int, most_rows: int) -> int:
    """Return what the cheapest way to divide rows costs, by trying all, from the longest to the shortest."""
    widths = sorted(lengths, reverse=True)
    costs = []
    for cuts in itertools.product((False, True), repeat=len(widths) - 1):
        starts = [0, *(place + 1 for place, cut in enumerate(cuts) if cut), len(widths)]
        sizes = [end - start for start, end in itertools.pairwise(starts)]
        if max(sizes) <= most_rows:
            costs.append(sum(size * widths[at] + pass_tokens for size, at in zip(sizes, starts, strict=False)))
    return min(costs)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    pass_tokens=st.integers(0, 80),
    most_rows=st.integers(1, 12),
)
def test_parts_by_length_hold_every_row_once_and_are_the_cheapest(
    lengths: list[int], pass_tokens: int, most_rows: int
) -> None:
    parts = split_by_length(np.array(lengths), pass_tokens=pass_tokens, most_rows=most_rows)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(lengths)))
    assert max(map(len, parts)) <= most_rows
    if len(parts) > 1:
        in_order = [lengths[row] for part in parts for row in part]
        assert in_order == sorted(lengths, reverse=True), "the longest first"
    found = sum(len(part) * max(lengths[row] for row in part) + pass_tokens for part in parts)
    assert found == cheapest(lengths, pass_tokens, most_rows)


def test_rows_of_one_length_and_few_tokens_stay_together() -> None:
    assert [part.tolist() for part in split_by_length(np.full(8, 50), pass_tokens=1, most_rows=8)] == [[*range(8)]]
    assert len(split_by_length(np.arange(1, 9), pass_tokens=10_000, most_rows=8)) == 1


@given(data=st.data(), lengths=LENGTHS)
def test_rows_taken_of_a_batch_are_those_of_the_split_padded_no_further_than_they_need(
    data: st.DataObject, lengths: list[int]
) -> None:
    split = split_of([list(range(100, 100 + length)) for length in lengths], types=True)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20)))
    taken, made = collate(split, range(len(lengths)), pad_id=0).take(rows), collate(split, rows, pad_id=0)
    assert taken.inputs.keys() == made.inputs.keys()
    assert all(torch.equal(taken.inputs[name], made.inputs[name]) for name in made.inputs)
    assert torch.equal(taken.targets, made.targets)
