"""Iterative stratification: a partition of given sizes, each part with its share of every label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpo.data.stratify import iterative_stratification, rarest_labels, stratified_prefix

Counts = NDArray[np.int64]


@st.composite
def divisions(draw: st.DrawFn) -> tuple[Counts, list[int]]:
    """Rows of random labels, and sizes of two to four parts of them."""
    rows, labels, parts = draw(st.integers(0, 60)), draw(st.integers(1, 5)), draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = (random.random((rows, labels)) < random.random(labels)).astype(np.int64)
    cuts = np.sort(random.integers(0, rows + 1, size=parts - 1))
    return counts, np.diff([0, *cuts, rows]).tolist()


def farthest(counts: Counts, parts: NDArray[np.int64], sizes: list[int]) -> float:
    """Return the largest distance, in rows, of what a part has of a label from its share."""
    has = np.array([counts[parts == part].sum(axis=0) for part in range(len(sizes))])
    return float(np.abs(has - np.outer(sizes, counts.sum(axis=0)) / len(counts)).max())


@given(divisions(), st.integers(0, 3))
def test_every_row_is_in_one_part_and_each_part_has_its_size(division: tuple[Counts, list[int]], seed: int) -> None:
    counts, sizes = division
    parts = iterative_stratification(counts, sizes, seed)
    assert np.bincount(parts, minlength=len(sizes)).tolist() == sizes
    assert np.array_equal(parts, iterative_stratification(counts, sizes, seed))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(2, 5), st.integers(0, 3))
def test_of_rows_of_one_label_each_part_has_its_share_to_a_row_or_so(support: list[int], parts: int, seed: int) -> None:
    counts = np.eye(len(support), dtype=np.int64).repeat(support, axis=0)
    sizes = [len(part) for part in np.array_split(np.arange(len(counts)), parts)]
    found = iterative_stratification(counts, sizes, seed)
    assert not len(counts) or farthest(counts, found, sizes) <= 1.5


@pytest.mark.parametrize("sizes", [[800, 100, 100], [200] * 5, [100, 900]])
def test_labels_that_come_together_stand_in_each_part_as_they_do_in_all(sizes: list[int]) -> None:
    """Where a random division is twenty rows off, and each label alone says nothing of those beside it."""
    random = np.random.default_rng(1)
    topics = (random.random((1000, 3)) < 0.3) @ (random.random((3, 12)) < 0.6)
    counts = ((topics > 0) & (random.random((1000, 12)) < 0.7)).astype(np.int64)
    assert farthest(counts, iterative_stratification(counts, sizes, 0), sizes) <= 1.5
    assert farthest(counts, random.permutation(np.repeat(np.arange(len(sizes)), sizes)), sizes) > 8


def test_a_small_part_has_a_row_of_every_label_that_has_rows_for_both() -> None:
    counts = np.zeros((500, 8), dtype=np.int64)
    counts[:, 0] = 1
    for label in range(1, 8):
        counts[2 * label : 2 * label + 2, label] = 1
    parts = iterative_stratification(counts, [10, 490], 0)
    assert (counts[parts == 0].sum(axis=0) > 0).all()
    assert (counts[parts == 1].sum(axis=0) > 0).all()


def test_another_seed_takes_other_rows_of_equal_labels() -> None:
    counts = np.ones((40, 2), dtype=np.int64)
    one, other = (iterative_stratification(counts, [20, 20], seed) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_the_rarest_label_of_a_row() -> None:
    counts = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, 1]])
    assert rarest_labels(counts).tolist() == [1, 0, 3, 1, 2]
    assert rarest_labels(np.zeros((2, 0), dtype=np.int64)).tolist() == [0, 0]


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array)


@given(LABELS, st.integers(0, 9), st.data())
def test_a_larger_part_holds_every_smaller_one(labels, seed, data):
    more = data.draw(st.integers(1, labels.size))
    fewer = data.draw(st.integers(1, more))
    assert set(stratified_prefix(labels, fewer, seed)) <= set(stratified_prefix(labels, more, seed))


@given(LABELS, st.integers(0, 9), st.data())
def test_classes_stand_in_a_part_as_they_do_in_all(labels, seed, data):
    rows = data.draw(st.integers(1, labels.size))
    part = stratified_prefix(labels, rows, seed)
    assert part.tolist() == sorted(set(part.tolist()))
    assert part.size == rows
    classes, counts = np.unique(labels, return_counts=True)
    found = np.array([np.count_nonzero(labels[part] == one) for one in classes])
    if rows >= classes.size:
        assert found.min() >= 1
    # The row that every class begins with may displace as many others.
    assert np.abs(found - counts * rows / labels.size).max() <= classes.size


def test_another_seed_takes_other_rows():
    labels = np.zeros(100, dtype=np.int64)
    parts = [stratified_prefix(labels, 10, seed).tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
