"""Labels of too few rows are refused, dropped or merged, in all splits, and counted."""

from collections import Counter
from collections.abc import Mapping

import pytest

from hpo.data.sources import Examples
from hpo.data.splits import split_examples
from hpo.errors import DataError


def examples(prefix: str = "", **counts: int) -> Examples:
    labels = tuple(label for label, count in counts.items() for _ in range(count))
    return Examples(texts=tuple(f"{prefix} text {number}" for number in range(len(labels))), labels=labels)


def test_they_are_refused_with_the_two_ways_out() -> None:
    with pytest.raises(
        DataError, match=r"fewer of 'x' \(2 of 'x'\); add rows, or have data.rare_labels=drop .*, or merge"
    ):
        split_examples(examples(a=20, b=20, x=2), validation=0.2, seed=0)


@pytest.mark.parametrize(
    ("how", "train", "labels", "note"),
    [
        ("drop", {"x": 2, "y": 1}, {"a": 20, "b": 20}, "3 training rows were dropped: 'x', 'y' (rows: 3 training)."),
        ("merge", {"x": 2, "y": 1}, {"a": 20, "b": 20, "other": 3}, "merged into 'other': 'x', 'y' (rows: 3 training)"),
        ("merge", {"x": 2, "other": 5}, {"a": 20, "b": 20, "other": 7}, "merged into 'other': 'x' (rows: 2 training)"),
        ("merge", {"x": 2}, {"a": 20, "b": 20}, "fewer than 3 too, and were dropped: 'other' (rows: 2 training)."),
        ("drop", {"x": 3}, {"a": 20, "b": 20, "x": 3}, ""),
    ],
)
def test_they_are_dropped_or_merged(how: str, train: Mapping[str, int], labels: Mapping[str, int], note: str) -> None:
    splits = split_examples(examples(a=20, b=20, **train), validation=0.2, seed=0, rare_labels=how)
    assert Counter(splits.train.labels) + Counter(splits.validation.labels) == Counter(labels)
    assert note in " ".join(splits.notes)
    assert ("rare" in " ".join(splits.notes)) is False


@pytest.mark.parametrize(("how", "left"), [("drop", {"a": 9, "b": 9}), ("merge", {"a": 9, "b": 9, "other": 4})])
def test_other_splits_follow_training(how: str, left: Mapping[str, int]) -> None:
    train = examples("train", a=9, b=9, x=1, y=1)
    others = {name: examples(name, a=9, b=9, x=3, y=1) for name in ("validation", "test")}
    splits = split_examples(train, **others, seed=0, rare_labels=how)  # type: ignore[arg-type]
    assert splits.test is not None
    assert Counter(splits.validation.labels) == Counter(splits.test.labels) == Counter(left)
    assert any("(rows: 2 training, 4 validation, 4 test)" in note for note in splits.notes)


def test_folds_need_a_row_of_each_label_in_each() -> None:
    splits = split_examples(examples(a=20, b=20, x=4), validation=0.2, seed=0, folds=5, rare_labels="drop")
    assert splits.label_names == ("a", "b")


def test_a_split_of_nothing_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"No validation row is left without 'x', which data.rare_labels"):
        split_examples(examples(a=9, b=9, x=1), validation=examples("v", x=3), seed=0, rare_labels="drop")


def test_a_label_that_remains_alone_is_refused() -> None:
    with pytest.raises(DataError, match="classification needs two labels"):
        split_examples(examples(a=9, x=1), validation=0.2, seed=0, rare_labels="drop")
