"""Splits are apart, stratified, the same on every machine, and refused where a score would mean nothing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.config.study_file import DataConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits, load_splits, split_examples
from hpo.data.stratify import stratified_sample
from hpo.errors import DataError

LABELS = st.lists(st.integers(0, 6), max_size=200)


def examples(**rows: int) -> Examples:
    """Make so many rows of each label, each text its own."""
    return Examples(
        texts=tuple(f"{label} {row}" for label, count in rows.items() for row in range(count)),
        labels=tuple(label for label, count in rows.items() for _ in range(count)),
    )


def texts_of(splits: Splits) -> list[set[str]]:
    return [
        {" ".join(text.split()) for text in part.texts}
        for part in (splits.train, splits.validation, splits.test)
        if part
    ]


@given(labels=LABELS, rows=st.integers(0, 220), seed=st.integers(0, 2**31 - 1))
def test_a_stratified_part_keeps_its_promises(labels: list[int], rows: int, seed: int) -> None:
    chosen = stratified_sample(labels, rows, seed)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == min(rows, len(labels))
    assert np.array_equal(chosen, stratified_sample(np.array(labels, dtype=np.int64), rows, seed))
    counts, taken = Counter(labels), Counter(labels[row] for row in chosen)
    if rows >= len(counts):
        assert taken.keys() == counts.keys()
    if all(count * rows >= len(labels) for count in counts.values()):
        assert all(abs(taken[label] - count * len(chosen) / len(labels)) < 1 for label, count in counts.items())


def test_remainders_go_to_the_largest() -> None:
    labels = [0] * 50 + [1] * 33 + [2] * 17
    taken = Counter(labels[row] for row in stratified_sample(labels, 10, 0))
    assert taken == {0: 5, 1: 3, 2: 2}  # exact: 5.0, 3.3, 1.7


def test_a_rare_class_takes_its_row_from_a_class_above_its_share() -> None:
    labels = [0] * 98 + [1, 2]
    taken = Counter(labels[row] for row in stratified_sample(labels, 10, 0))
    assert taken == {0: 8, 1: 1, 2: 1}


def test_another_seed_chooses_other_rows() -> None:
    assert not np.array_equal(stratified_sample([0, 1] * 50, 20, 0), stratified_sample([0, 1] * 50, 20, 1))


def test_fractions_are_shares_of_all_training_rows() -> None:
    splits = split_examples(examples(a=70, b=30), validation=0.2, test=0.1, seed=3)
    assert splits.test is not None
    assert Counter(splits.train.labels) == {"a": 49, "b": 21}
    assert Counter(splits.validation.labels) == {"a": 14, "b": 6}
    assert Counter(splits.test.labels) == {"a": 7, "b": 3}
    assert len(set.union(*texts_of(splits))) == 100
    assert splits.notes == (
        "Made validation and test from the training rows.",
        "Rows: 70 training, 20 validation, 10 test; 2 labels: 'a', 'b'.",
    )


def test_a_rare_class_reaches_every_split() -> None:
    splits = split_examples(examples(common=996, rare=4), validation=0.2, test=0.1, seed=0)
    assert splits.test is not None
    assert Counter(splits.train.labels)["rare"] >= 2
    assert "rare" in splits.validation.labels
    assert "rare" in splits.test.labels


def test_splits_follow_from_the_seed_in_any_process() -> None:
    rows = examples(a=30, b=30)
    ours = split_examples(rows, validation=0.2, seed=5)
    code = (
        "from hpo.data.sources import Examples\nfrom hpo.data.splits import split_examples\n"
        f"print(split_examples(Examples(texts={rows.texts}, labels={rows.labels}), validation=0.2, seed=5).fingerprint)"
    )
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert theirs.stdout.strip() == ours.fingerprint
    assert split_examples(rows, validation=0.2, seed=6).fingerprint != ours.fingerprint


def test_the_fingerprint_sees_order_boundaries_and_splits() -> None:
    def fingerprint(train: Examples, validation: Examples, test: Examples | None = None) -> str:
        return split_examples(train, validation=validation, test=test or 0.0, seed=0).fingerprint

    train = Examples(texts=("a", "b", "c", "d"), labels=("0", "0", "1", "1"))
    validation = Examples(texts=("x", "y"), labels=("0", "1"))
    seen = [
        fingerprint(train, validation),
        fingerprint(train.take([1, 0, 2, 3]), validation),
        fingerprint(Examples(texts=("ab", "", "c", "d"), labels=train.labels), validation),
        fingerprint(train, Examples(texts=("x", "y"), pairs=("", ""), labels=("0", "1"))),
        fingerprint(train, Examples(texts=("x", "y"), labels=("1", "0"))),
        fingerprint(train, validation, Examples(texts=("z",), labels=("0",))),
    ]
    assert len(set(seen)) == len(seen)
    assert seen[0] == fingerprint(train, validation)


def test_texts_of_two_splits_are_removed_from_the_lower_one() -> None:
    train = Examples(texts=("a", "b", "c", "d", "in  both ", "tested"), labels=("0", "0", "1", "1", "0", "1"))
    validation = Examples(texts=("in both", "v", "tested\n"), labels=("0", "1", "1"))
    test = Examples(texts=("tested", "t"), labels=("1", "0"))
    splits = split_examples(train, validation=validation, test=test, seed=0)
    assert splits.train.texts == ("a", "b", "c", "d")
    assert splits.validation.texts == ("in both", "v")
    assert splits.test == test
    assert splits.notes[:2] == (
        "Validation rows removed because their text is in the test split as well: 1.",
        "Training rows removed because their text is in validation or test as well: 2.",
    )


def test_a_pair_is_a_duplicate_only_as_a_whole() -> None:
    train = Examples(texts=("q",) * 5, pairs=("a", "b", "c", "d", "e"), labels=("0", "0", "1", "1", "1"))
    validation = Examples(texts=("q", "q"), pairs=("e", "f"), labels=("1", "0"))
    assert split_examples(train, validation=validation, seed=0).train.pairs == ("a", "b", "c", "d")
    turned = Examples(texts=("e", "f"), pairs=("q", "q"), labels=("1", "0"))
    assert split_examples(train, validation=turned, seed=0).train.pairs == ("a", "b", "c", "d"), "in either order"


@given(copies=st.lists(st.integers(0, 40), min_size=60, max_size=120), seed=st.integers(0, 1000))
def test_made_splits_never_share_a_text(copies: list[int], seed: int) -> None:
    rows = Examples(texts=tuple(f"text  {copy}" for copy in copies), labels=tuple("ab"[copy % 2] for copy in copies))
    try:
        splits = split_examples(rows, validation=0.2, test=0.2, seed=seed)
    except DataError:
        return  # so many copies that a split was left without a class
    parts = texts_of(splits)
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_repetitions_within_training_are_kept_and_counted() -> None:
    train = Examples(texts=("a", "a ", "b", "b", "c"), labels=("0", "0", "0", "1", "1"))
    splits = split_examples(train, validation=Examples(texts=("x", "y"), labels=("0", "1")), seed=0)
    assert splits.train == train
    assert splits.notes[:2] == (
        "Training rows that repeat the text of an earlier one, and were kept: 2.",
        "Training texts that occur with more than one label: 1.",
    )


def test_labels_are_ordered_by_number_where_all_are_integers() -> None:
    assert split_examples(examples(**{"10": 5, "9": 5, "-1": 5}), validation=0.2, seed=0).label_names == (
        "-1",
        "9",
        "10",
    )
    assert split_examples(examples(**{"10": 5, "9": 5, "x": 5}), validation=0.2, seed=0).label_names == ("10", "9", "x")


def test_hostile_labels_are_quoted_and_cut_in_sentences() -> None:
    hostile = {"<img onerror=alert(1)>": 5, "\x1b[2J": 5, "long" * 1000: 5}
    summary = split_examples(examples(**hostile), validation=0.2, seed=0).notes[-1]
    assert "'<img onerror=alert(1)>'" in summary
    assert "\x1b" not in summary
    assert len(summary) < 300


TWELVE = examples(**dict.fromkeys("abcdefghijkl", 1))
COPIES = Examples(texts=("b 0", "b 1", "x"), labels=("b", "b", "a"))
VALIDATION = Examples(texts=("v a", "v b"), labels=("a", "b"))


@pytest.mark.parametrize(
    ("train", "validation", "sentence"),
    [
        (examples(a=9), VALIDATION, "All 9 training rows have the label 'a'; classification needs two labels."),
        (examples(a=9, b=1), VALIDATION, "at least 2 training rows, but there are fewer of 'b' (1 of 'b'); add rows"),
        (examples(a=9, b=2), 0.2, "at least 3 training rows, one of them for each of validation, but there are fewer"),
        (TWELVE, 0.2, "fewer of 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j' and 2"),
        (TWELVE, 0.2, "The label column holds 12 values in 12 rows: is it the right one"),
        (examples(a=2, b=2), 0.2, "4 training rows are too few for 2 labels: every label needs at least 3 "),
        (examples(a=9, c=9), VALIDATION, "that training does not have: 'b' (rows: 1); training has 'a', 'c'."),
        (examples(a=9, b=9, c=9), VALIDATION, "Validation has no row of 'c'"),
        (examples(a=9, b=9), examples(a=9, b=9), "No training row is left"),
        (examples(a=9, b=3), COPIES, "text or group is in another split, but there are fewer of 'b' (1 of 'b'); "),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_or_scored_is_refused(
    train: Examples, validation: Examples | float, sentence: str
) -> None:
    with pytest.raises(DataError) as error:
        split_examples(train, validation=validation, seed=0)
    assert sentence in str(error.value)


def test_a_doubtful_label_column_is_asked_about_first_and_a_small_file_is_not() -> None:
    with pytest.raises(DataError) as error:
        split_examples(TWELVE, validation=0.2, seed=0)
    assert str(error.value).startswith("The label column holds 12 values in 12 rows")
    with pytest.raises(DataError) as error:
        split_examples(examples(a=2, b=2), validation=0.2, seed=0)
    assert "right one" not in str(error.value)
    assert "rare_labels" not in str(error.value)


def test_labels_of_test_are_checked_too() -> None:
    with pytest.raises(DataError, match="The test split has labels that training does not have: 'z'"):
        split_examples(examples(a=9, b=9), validation=0.2, test=examples(z=3), seed=0)


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_files_of_several_formats_make_one_study(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "text,label\n" + "".join(f"t{row},{row % 2}\n" for row in range(8)) + ",1\n")
    validation = write(tmp_path / "dev.tsv", "label\ttext\n0\tv0\n1\tv1\n")
    test = write(tmp_path / "test.jsonl", '{"text": "x", "label": 1.0}\n')
    splits = load_splits(DataConfig(train=train, validation=validation, test=test), seed=0)
    assert splits.test == Examples(texts=("x",), labels=("1",))
    assert splits.validation.texts == ("v0", "v1")
    assert splits.notes == (
        "train.csv: text from column 'text', label from column 'label' (detected).",
        "train.csv: rows dropped for having no text: 1 (line 10).",
        "Rows: 8 training, 2 validation, 1 test; 2 labels: '0', '1'.",
    )


def test_validation_has_the_columns_found_in_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "v1,v2\n" + "".join(f"{'ab'[row % 2]},long text {row}\n" for row in range(9)))
    validation = write(tmp_path / "dev.csv", "v1,v2\na,v\nb,w\n")
    assert load_splits(DataConfig(train=train, validation=validation), seed=0).validation.labels == ("a", "b")
    with pytest.raises(DataError, match=r"dev.csv has no column 'v2'. Known: v1, v3."):
        load_splits(DataConfig(train=train, validation=write(tmp_path / "dev.csv", "v1,v3\na,v\n")), seed=0)


def test_fractions_of_the_configuration_are_used(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", "text,label\n" + "".join(f"t{row},{row % 2}\n" for row in range(40)))
    splits = load_splits(DataConfig(train=train, validation_fraction=0.25, test_fraction=0.5), seed=1)
    assert splits.test is not None
    assert (splits.train.rows, splits.validation.rows, splits.test.rows) == (10, 10, 20)
    assert load_splits(DataConfig(train=train), seed=1).test is None
