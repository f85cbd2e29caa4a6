"""Scores equal a known answer, scikit-learn's own functions, and the formulas of `docs/metrics.md`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from hpo.messages import Scores
from hpo.metrics.classification import METRICS, classification_scores

ROWS = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=40),
    )
)
REFERENCES = {"precision": precision_score, "recall": recall_score, "f1": f1_score}


def scores_of(true: list[int], predicted: list[int], names: list[str], positive: str | None = None) -> Scores:
    return classification_scores(np.array(true), np.array(predicted), names, "macro_f1", positive)


def test_known_answer() -> None:
    true, predicted = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    scores = classification_scores(true, predicted, ["ham", "spam"], "f1", "spam", loss=0.5)
    assert scores.values["accuracy"] == pytest.approx(0.8)
    assert scores.values["precision"] == 1.0
    assert scores.values["recall"] == pytest.approx(2 / 3)
    assert scores.values["f1"] == scores.objective == pytest.approx(0.8)
    assert scores.values["macro_f1"] == pytest.approx(0.8)
    assert scores.values["loss"] == 0.5
    assert scores.confusion == ((2, 0), (1, 2))
    assert scores.per_class["ham"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
    }
    assert scores.rows == 5


def test_the_other_class_may_be_positive() -> None:
    scores = scores_of([0, 1, 1, 0, 1], [0, 1, 0, 0, 1], ["ham", "spam"], positive="ham")
    assert scores.values["precision"] == pytest.approx(2 / 3)
    assert scores.values["recall"] == 1.0


@settings(max_examples=60, deadline=None)
@given(drawn=ROWS)
def test_scores_equal_scikit_learns(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, rows = drawn
    true, predicted = [row[0] for row in rows], [row[1] for row in rows]
    names = [f"class {number}" for number in range(classes)]
    numbers = list(range(classes))
    scores = scores_of(true, predicted, names, positive=names[1] if classes == 2 else None)
    assert scores.values["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert np.array_equal(scores.confusion, confusion_matrix(true, predicted, labels=numbers))
    for name, reference in REFERENCES.items():
        for average in ("macro", "micro", "weighted"):
            expected = reference(true, predicted, labels=numbers, average=average, zero_division=0)
            assert scores.values[f"{average}_{name}"] == pytest.approx(expected)
        per_class = reference(true, predicted, labels=numbers, average=None, zero_division=0)
        assert [scores.per_class[label][name] for label in names] == pytest.approx(per_class.tolist())
        if classes == 2:
            expected = reference(true, predicted, pos_label=1, zero_division=0)
            assert scores.values[name] == pytest.approx(expected)


@given(drawn=ROWS)
def test_scores_are_shares_and_do_not_depend_on_the_order_of_rows(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    classes, rows = drawn
    names = [str(number) for number in range(classes)]
    scores = scores_of([row[0] for row in rows], [row[1] for row in rows], names)
    turned = scores_of([row[0] for row in rows[::-1]], [row[1] for row in rows[::-1]], names)
    assert scores == turned
    assert all(0 <= value <= 1 for value in scores.values.values())
    assert sum(row["support"] for row in scores.per_class.values()) == scores.rows == len(rows)


def test_nothing_to_count_is_zero_without_a_warning() -> None:
    scores = scores_of([0, 0], [0, 0], ["a", "b"], positive="b")
    assert scores.values["f1"] == scores.values["precision"] == scores.values["recall"] == 0.0
    assert scores.values["macro_f1"] == 0.5
    assert scores.values["weighted_f1"] == 1.0


def test_every_metric_of_the_list_is_computed_and_documented() -> None:
    scores = scores_of([0, 1], [1, 1], ["a", "b"], positive="b")
    assert scores.values.keys() == METRICS.keys()
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in page] == []


def test_values_cross_processes_as_plain_numbers() -> None:
    scores = scores_of([0, 1], [1, 1], ["a", "b"], positive="b")
    assert {type(value) for value in scores.values.values()} == {float}
    assert {type(count) for row in scores.confusion for count in row} == {int}
    assert {type(value) for row in scores.per_class.values() for value in row.values()} <= {float, int}
