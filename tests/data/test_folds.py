"""Folds cover the training rows once, are stratified, and never tell a fold what another is scored on."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpo.config.study_file import DataConfig
from hpo.data.sources import Examples
from hpo.data.splits import Splits, load_splits, make_folds, split_examples
from hpo.errors import DataError


def examples(labels: str, groups: list[str] | None = None, texts: list[str] | None = None) -> Examples:
    """Make a row of each letter, each text its own if not given."""
    return Examples(
        texts=tuple(texts or (f"text {row}" for row in range(len(labels)))),
        labels=tuple(labels),
        groups=tuple(groups) if groups else None,
    )


def folded(train: Examples, folds: int = 3, seed: int = 0) -> Splits:
    return split_examples(train, validation=0.2, seed=seed, folds=folds)


@settings(deadline=None)
@given(
    labels=st.lists(st.sampled_from("abc"), min_size=10, max_size=80),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**31 - 1),
)
def test_folds_partition_the_rows_and_are_stratified_to_within_a_row(labels: list[str], folds: int, seed: int) -> None:
    counts = Counter(labels)
    assume(len(counts) > 1 and min(counts.values()) >= folds)
    train = examples("".join(labels))
    splits = folded(train, folds, seed)
    assert splits.validation is splits.train
    assert splits.train == train
    assert np.array_equal(np.sort(np.concatenate([fold.validation for fold in splits.folds])), np.arange(len(labels)))
    for fold in splits.folds:
        assert fold.train.dtype == fold.validation.dtype == np.int64
        assert np.array_equal(np.sort(np.concatenate([fold.train, fold.validation])), np.arange(len(labels)))
        taken = Counter(labels[row] for row in fold.validation)
        assert all(abs(taken[label] - count / folds) < 1 for label, count in counts.items())
        assert abs(fold.validation.size - len(labels) / folds) < 1


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20), st.integers(0, 60)), min_size=20, max_size=80),
    folds=st.integers(2, 4),
)
def test_rows_of_one_group_or_text_share_a_fold(rows: list[tuple[str, int, int]], folds: int) -> None:
    groups = [str(group) if group else "" for _, group, _ in rows]
    texts = [f"text {' ' * (row % 2)}{text}" for row, (_, _, text) in enumerate(rows)]
    try:
        made = make_folds(examples("".join(label for label, _, _ in rows), groups, texts), folds, 0)
    except DataError:
        return  # too few parts that stay whole
    assert sorted(row for fold in made for row in fold.validation) == list(range(len(rows)))
    for fold in made:
        trained, scored = ([rows[row] for row in part] for part in (fold.train, fold.validation))
        assert not {text for _, _, text in trained} & {text for _, _, text in scored}
        assert not {group for _, group, _ in trained if group} & {group for _, group, _ in scored if group}


def test_folds_of_groups_are_near_to_equal() -> None:
    generator = np.random.default_rng(1)
    groups = [str(group) for group in generator.integers(0, 150, size=1000)]
    made = make_folds(examples("".join(generator.choice(list("aab"), size=1000)), groups), 5, 0)
    assert all(abs(fold.validation.size - 200) <= 5 for fold in made)


def test_a_repeated_text_stays_within_its_fold_without_groups() -> None:
    train = examples("ab" * 20, texts=[f"text {row % 30 - row % 2}  {row % 2}" for row in range(40)])
    for fold in folded(train, 4).folds:
        assert not {train.texts[row] for row in fold.train} & {train.texts[row] for row in fold.validation}


def test_folds_follow_from_the_seed_and_the_fingerprint_covers_them() -> None:
    train = examples("ab" * 20)
    prints = [folded(train, 4, 0), folded(train, 4, 0), folded(train, 4, 1), folded(train, 5, 0)]
    assert prints[0].fingerprint == prints[1].fingerprint
    assert len({splits.fingerprint for splits in prints}) == 3
    assert split_examples(train, validation=0.2, seed=0).folds == ()


def test_folds_are_made_of_what_test_leaves() -> None:
    train = examples("ab" * 50)
    test = Examples(texts=("text 1", "text  2", "other"), labels=("b", "a", "a"))
    splits = split_examples(train, validation=0.2, test=test, seed=0, folds=5)
    assert splits.test == test
    assert splits.notes == (
        "Training rows removed because their text is in the test split as well: 2.",
        "98 rows in 5 folds, 3 test; 2 labels: 'a', 'b'.",
    )
    assert not {"text 1", "text 2"} & set(splits.train.texts)
    made = split_examples(train, validation=0.2, test=0.2, seed=0, folds=5)
    assert made.test is not None
    assert (made.train.rows, made.test.rows) == (80, 20)
    assert made.notes == (
        "Made test from the training rows.",
        "80 rows in 5 folds, 20 test; 2 labels: 'a', 'b'.",
    )


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        (
            examples("a" * 9 + "bb"),
            "at least 3 training rows, one of them for each of evaluation.folds, but there are fewer of 'b' (2 of 'b')"
            "; lower evaluation.folds, add rows, or have data.rare_labels=drop",
        ),
        (
            examples("ab" * 6, list("112211221122")),
            "evaluation.folds is 3, but rows that stay together (of one group, or of one text) leave only 2 parts",
        ),
        (
            examples("aaabbbaaabbb", list("111222333444")),
            " has 3 rows, all of the label ",
        ),
        (
            examples("abab" + "a" * 8 + "bbb", list("1111" + "23456789") + ["1"] * 3),
            "has every row of 'b' (rows: 5), as rows of one group or text stay together, so nothing of it is left to",
        ),
    ],
)  # fmt: skip
def test_folds_that_could_not_be_trained_or_scored_on_are_refused(train: Examples, sentence: str) -> None:
    with pytest.raises(DataError) as error:
        folded(train)
    assert sentence in str(error.value)


def test_folds_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label,doc\n" + "".join(f"t{row},{row % 2},{row // 4}\n" for row in range(40)))
    config = DataConfig(train=str(path), group_column="doc", test_fraction=0.2)
    splits = load_splits(config, seed=0, folds=4)
    assert splits.notes[-1] == "32 rows in 4 folds, 8 test; 2 labels: '0', '1'."
    assert [fold.validation.size for fold in splits.folds] == [8] * 4
    groups = splits.train.groups
    assert groups is not None
    for fold in splits.folds:
        assert not {groups[row] for row in fold.train} & {groups[row] for row in fold.validation}
