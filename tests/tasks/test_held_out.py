"""A held-out evaluation has the scores, their jackknife, and the scores of slices."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from hpo.config.tasks import TaskConfig
from hpo.metrics.confusion import ClassPredictions
from hpo.tasks.classification import Classification
from hpo.tasks.held_out import LEAST_SLICE_ROWS, MOST_GROUPS, HeldOutRows, evaluate_held_out, mean_held_out

LABELS = ("no", "yes")
ROWS = 400


def task(metric: str = "accuracy") -> Classification:
    return Classification.of(TaskConfig(metric=metric, positive_label="yes"), LABELS)


def predicted(correct: NDArray[np.bool_]) -> ClassPredictions:
    true = np.arange(len(correct)) % 2
    return ClassPredictions.of(true, np.eye(2)[np.where(correct, true, 1 - true)] * 0.8 + 0.1)


def known_rows(rows: int = ROWS, groups: Sequence[str] = (), words: Sequence[int] | None = None) -> HeldOutRows:
    return HeldOutRows(words=np.array(words if words is not None else [5] * rows), groups=groups, seed=3)


CORRECT = np.random.default_rng(0).random(ROWS) < 0.8
"""Which rows are predicted correctly."""


def variance(deviations: Sequence[float]) -> float:
    return sum(one**2 for one in deviations)


def test_scores_are_those_of_the_task_and_deviations_the_variance_of_its_score() -> None:
    held_out = evaluate_held_out(task(), predicted(CORRECT), known_rows())

    share = CORRECT.mean()
    assert held_out.scores == task().scores(predicted(CORRECT))
    assert held_out.scores.objective == pytest.approx(share)
    assert variance(held_out.deviations) == pytest.approx(share * (1 - share) / ROWS, rel=0.2)


def test_rows_of_a_group_are_left_out_together() -> None:
    groups = [f"document {row // 10}" for row in range(ROWS)]
    together = np.repeat(np.random.default_rng(1).random(ROWS // 10) < 0.7, 10)

    held_out = evaluate_held_out(task(), predicted(together), known_rows(groups=groups))

    share = together.mean()
    assert len(held_out.deviations) == ROWS // 10
    assert variance(held_out.deviations) == pytest.approx(share * (1 - share) / (ROWS // 10 - 1))


def test_of_a_single_group_rows_are_left_out() -> None:
    """Nothing would be left to score with the only group left out."""
    held_out = evaluate_held_out(task(), predicted(CORRECT), known_rows(groups=["one"] * ROWS))

    assert held_out.deviations == evaluate_held_out(task(), predicted(CORRECT), known_rows()).deviations


def test_rows_without_a_group_are_left_out_by_themselves() -> None:
    held_out = evaluate_held_out(
        task(), predicted(CORRECT), known_rows(groups=["", *["one"] * 199, "", *["two"] * 199])
    )

    assert len(held_out.deviations) == 4


def test_a_row_moves_accuracy_by_its_share_and_a_group_by_that_of_its_rows() -> None:
    groups = [f"document {row % 12}" for row in range(ROWS)]

    assert evaluate_held_out(task(), predicted(CORRECT), known_rows()).of_a_unit == pytest.approx(1 / ROWS)
    assert evaluate_held_out(task(), predicted(CORRECT), known_rows(groups=groups)).of_a_unit == pytest.approx(1 / 12)


def test_a_row_moves_f1_of_a_rare_class_by_more_than_its_share() -> None:
    """Of 20 positives among 2,000, by 1 of 40: whether one is missed, or one more is found that is none."""
    true = np.arange(2000) % 100 == 0
    flawless = ClassPredictions.of(true.astype(np.int64), np.eye(2)[true.astype(int)] * 0.8 + 0.1)

    held_out = evaluate_held_out(task("f1"), flawless, known_rows(2000))

    assert held_out.scores.objective == 1.0
    assert variance(held_out.deviations) == 0.0
    assert held_out.of_a_unit == pytest.approx(1 / 40, rel=0.25)


def test_of_a_model_that_is_never_correct_nothing_is_flipped() -> None:
    assert evaluate_held_out(task(), predicted(np.zeros(ROWS, dtype=np.bool_)), known_rows()).of_a_unit == 0.0


def test_two_models_are_evaluated_with_the_same_rows_left_out() -> None:
    one, other = (evaluate_held_out(task(), predicted(CORRECT), known_rows()) for _ in range(2))

    assert one.deviations == other.deviations


def test_slices_by_length_are_of_like_size_and_have_the_f1_of_their_rows() -> None:
    words = np.random.default_rng(2).integers(1, 1000, ROWS)

    held_out = evaluate_held_out(task(), predicted(CORRECT), known_rows(words=words.tolist()))

    predictions = predicted(CORRECT)
    assert [one.by for one in held_out.slices] == ["length"] * 4
    assert all(90 <= one.rows <= 110 for one in held_out.slices)
    assert sum(one.rows for one in held_out.slices) == ROWS
    first = held_out.slices[0]
    shortest = words <= int(first.name.split()[2])
    expected = f1_score(predictions.true[shortest], predictions.probabilities[shortest].argmax(axis=1))
    assert first.score == pytest.approx(expected)


def test_texts_of_one_length_are_one_slice() -> None:
    slices = evaluate_held_out(task(), predicted(CORRECT), known_rows()).slices
    assert [(one.name, one.rows) for one in slices] == [("0 to 5 words", ROWS)]


def test_slices_by_group_are_the_largest_named_ones_with_enough_rows() -> None:
    sizes = {f"group {place:02}": LEAST_SLICE_ROWS + place for place in range(MOST_GROUPS + 2)}
    groups = [name for name, size in sizes.items() for _ in range(size)] + ["small"] * 5 + [""] * 100
    right = np.random.default_rng(0).random(len(groups)) < 0.8

    slices = evaluate_held_out(task(), predicted(right), known_rows(len(groups), groups)).slices

    named = {one.name: one.rows for one in slices if one.by == "group"}
    assert named == {name: size for name, size in sizes.items() if size > LEAST_SLICE_ROWS + 1}


def test_the_mean_over_folds_has_the_variance_of_a_mean() -> None:
    parts = [np.arange(ROWS)[start::4] for start in range(4)]
    known = known_rows()
    evaluations = [evaluate_held_out(task(), predicted(CORRECT).take(rows), known.take(rows)) for rows in parts]

    mean = mean_held_out(evaluations)

    assert mean.scores.objective == pytest.approx(np.mean([one.scores.objective for one in evaluations]))
    assert mean.scores.rows == ROWS
    assert variance(mean.deviations) == pytest.approx(sum(variance(one.deviations) for one in evaluations) / 16)


def test_folds_have_the_same_slices_by_length() -> None:
    words = np.random.default_rng(4).integers(1, 1000, ROWS).tolist()
    known = known_rows(words=words)
    parts = [np.arange(ROWS)[start::2] for start in range(2)]

    mean = mean_held_out([evaluate_held_out(task(), predicted(CORRECT).take(rows), known.take(rows)) for rows in parts])

    whole = evaluate_held_out(task(), predicted(CORRECT), known)
    assert [(one.name, one.rows) for one in mean.slices] == [(one.name, one.rows) for one in whole.slices]


def test_rows_keep_their_words_and_groups_when_some_are_taken() -> None:
    some = known_rows(4, ["a", "b", "c", "d"], [1, 2, 3, 4]).take(np.array([3, 1]))

    assert some.words.tolist() == [4, 2]
    assert list(some.groups) == ["d", "b"]
    assert some.seed == 3
