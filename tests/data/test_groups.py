"""Groups stay whole in every split, and splits of groups are as stratified as groups allow."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.config.study_file import DataConfig
from hpo.data.groups import group_numbers
from hpo.data.sources import Examples, read_examples
from hpo.data.splits import Splits, load_splits, split_examples
from hpo.data.stratify import divide_groups
from hpo.errors import DataError

ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=120)


def grouped(*rows: tuple[str, str]) -> Examples:
    """Make rows of (label, group), each text its own."""
    return Examples(
        texts=tuple(f"text {number}" for number in range(len(rows))),
        labels=tuple(label for label, _ in rows),
        groups=tuple(group for _, group in rows),
    )


def documents(count: int, rows: int) -> Examples:
    """Make so many groups of so many rows, whose labels alternate between groups."""
    return grouped(*(("ab"[group % 2], f"doc {group}") for group in range(count) for _ in range(rows)))


def groups_of(splits: Splits) -> list[set[str]]:
    parts = (splits.train, splits.validation, splits.test)
    return [{group for group in part.groups or () if group} for part in parts if part]


def test_group_numbers_count_from_0_and_empty_ones_stand_alone() -> None:
    assert group_numbers(["b", "", "a", "b", "", "a"]).tolist() == [0, 1, 2, 0, 3, 2]


@given(rows=ROWS, shares=st.sampled_from([(0.8, 0.2), (0.6, 0.3, 0.1), (0.25,) * 4]), seed=st.integers(0, 2**31 - 1))
def test_no_group_is_divided(rows: list[tuple[int, int]], shares: tuple[float, ...], seed: int) -> None:
    groups = group_numbers([str(group) for group, _ in rows])
    labels = np.unique([label for _, label in rows], return_inverse=True)[1]
    parts = divide_groups(labels, groups, shares, seed)
    assert len(set(zip(groups.tolist(), parts.tolist(), strict=True))) == groups.max() + 1
    assert set(parts.tolist()) <= set(range(len(shares)))
    assert np.array_equal(parts, divide_groups(labels, groups, shares, seed))


@given(labels=st.lists(st.integers(0, 3), min_size=40, max_size=200), seed=st.integers(0, 1000))
def test_groups_of_one_row_are_divided_to_within_a_row_or_two(labels: list[int], seed: int) -> None:
    classes = np.unique(labels, return_inverse=True)[1]
    parts = divide_groups(classes, np.arange(classes.size), (0.7, 0.2, 0.1), seed)
    for part, share in enumerate((0.7, 0.2, 0.1)):
        for label, count in enumerate(np.bincount(classes)):
            assert abs(np.sum(classes[parts == part] == label) - count * share) < 2.5


def test_groups_of_many_sizes_come_near_their_shares_and_sizes_stay_mixed() -> None:
    generator = np.random.default_rng(0)
    groups = np.unique(generator.geometric(0.02, size=3000), return_inverse=True)[1]
    labels = generator.integers(0, 3, size=3000)
    parts = divide_groups(labels, groups, (0.8, 0.2), 0)
    assert abs(np.mean(parts == 1) - 0.2) < 0.01
    for label in range(3):
        assert abs(np.mean(parts[labels == label] == 1) - 0.2) < 0.01
    sizes = np.bincount(groups)[np.unique(groups[parts == 1])]
    assert sizes.max() > 20
    assert sizes.min() == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_class_of_as_many_groups_as_parts_is_in_each(seed: int) -> None:
    common = [("common", f"c{group}") for group in range(40) for _ in range(3)]
    rare = [("rare", group) for group in ("r1", "r1", "r2", "r3", "r3", "r3")]
    splits = split_examples(grouped(*common, *rare), validation=0.2, test=0.1, seed=seed)
    assert splits.test is not None
    assert all("rare" in part.labels for part in (splits.train, splits.validation, splits.test))


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 15)), min_size=20, max_size=80),
    seed=st.integers(0, 9),
)
def test_no_group_is_in_two_splits(rows: list[tuple[str, int]], seed: int) -> None:
    examples = grouped(*((label, str(group) if group else "") for label, group in rows))
    try:
        splits = split_examples(examples, validation=0.2, test=0.2, seed=seed)
    except DataError:
        return  # a class in too few groups
    found = groups_of(splits)
    assert sum(map(len, found)) == len(set.union(*found))
    assert splits.train.rows + splits.validation.rows + (splits.test.rows if splits.test else 0) == len(rows)


def test_made_splits_say_so_and_follow_from_the_seed() -> None:
    examples = documents(20, 5)
    splits = split_examples(examples, validation=0.2, test=0.1, seed=3)
    assert splits.test is not None
    assert (splits.train.rows, splits.validation.rows, splits.test.rows) == (70, 20, 10)
    assert Counter(splits.validation.labels) == {"a": 10, "b": 10}
    assert splits.notes[0] == "Made validation and test from the training rows, no group divided."
    assert split_examples(examples, validation=0.2, test=0.1, seed=3).fingerprint == splits.fingerprint
    assert split_examples(examples, validation=0.2, test=0.1, seed=4).fingerprint != splits.fingerprint


def test_the_fingerprint_sees_groups() -> None:
    validation = Examples(texts=("x", "y"), labels=("a", "b"), groups=("v", "v"))
    seen = {
        split_examples(train, validation=validation, seed=0).fingerprint
        for train in (
            grouped(("a", "1"), ("a", "1"), ("b", "2"), ("b", "2")),
            grouped(("a", "1"), ("a", "3"), ("b", "2"), ("b", "2")),
        )
    }
    assert len(seen) == 2


def test_rows_whose_group_is_in_a_later_split_are_removed() -> None:
    train = grouped(("a", "1"), ("a", ""), ("b", "1"), ("b", "2"), ("b", "3"), ("a", "4"), ("b", "5"), ("a", "6"))
    validation = Examples(texts=("x", "y", "z", "text 7"), labels=("a", "b", "b", "a"), groups=("2", "", "3", "9"))
    test = Examples(texts=("t", "u"), labels=("a", "b"), groups=("3", ""))
    with pytest.raises(DataError, match=r"in another split, but there are fewer of 'b' \(1 of 'b'\)"):
        split_examples(train.take([0, 1, 2, 3, 4, 5]), validation=validation, test=test, seed=0)
    splits = split_examples(train, validation=validation, test=test, seed=0)
    assert splits.train.texts == ("text 0", "text 1", "text 2", "text 5", "text 6")
    assert splits.validation.texts == ("x", "y", "text 7")
    assert splits.test == test
    assert splits.notes[:3] == (
        "Validation rows removed because their group is in the test split as well: 1.",
        "Training rows removed because their text is in validation or test as well: 1.",
        "Training rows removed because their group is in validation or test as well: 2.",
    )


def test_a_text_of_two_groups_is_a_duplicate_like_any_other() -> None:
    texts = [f"text {row}" for row in range(40)]
    texts[0], texts[39] = "same  text", "same text"
    examples = Examples(
        texts=tuple(texts),
        labels=tuple("ab"[row % 2] for row in range(40)),
        groups=tuple(str(row // 2) for row in range(40)),
    )
    for seed in range(10):
        splits = split_examples(examples, validation=0.3, seed=seed)
        trained, scored = (
            {" ".join(text.split()) for text in part.texts} for part in (splits.train, splits.validation)
        )
        assert "same text" in trained ^ scored


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("a", "one"), ("b", "one")] * 5, "the training rows need at least 3 groups, but they have 1 ('one'); "),
        (
            [("a", "one"), ("b", "two")] * 5,
            "need at least 3 groups, but they have 2 ('one', 'two')",
        ),
        (
            [("a", "one"), ("a", "two"), ("a", "three"), ("b", "one"), ("b", "two")] * 5,
            "The label 'b' is in 2 of the groups only ('one', 'two'), so it cannot be in training and in validation",
        ),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_divided_are_refused(rows: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(DataError) as error:
        split_examples(grouped(*rows), validation=0.2, test=0.2, seed=0)
    assert sentence in str(error.value)


def test_one_group_is_enough_to_train_on_where_validation_is_given() -> None:
    train = grouped(*[("a", "one"), ("b", "one")] * 3)
    validation = Examples(texts=("x", "y"), labels=("a", "b"), groups=("two", "two"))
    assert split_examples(train, validation=validation, seed=0).train == train
    with pytest.raises(DataError, match="No training row is left: each of its texts or groups is in another split"):
        split_examples(train, validation=Examples(texts=("x",), labels=("a",), groups=("one",)), seed=0)


def test_groups_are_read_from_their_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,doc\na,x,1.0\nb,y,1\nc,x,\nd,y, \n,y,3\n")
    source = read_examples(str(path), "train", DataConfig(train=path, group_column="doc"))
    assert source.examples.groups == ("1", "1", "", "")
    assert source.notes[-1] == "rows.csv: rows without a group (column 'doc'), each of which stands alone: 2."
    with pytest.raises(DataError, match=r"rows.csv has no column 'docs'. Did you mean 'doc'?"):
        load_splits(DataConfig(train=str(path), group_column="docs"), seed=0)
