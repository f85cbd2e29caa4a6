"""Scores equal a known answer, scikit-learn's own functions, and the formulas of `docs/metrics.md`."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from hpo.messages import Scores
from hpo.metrics.classification import METRICS, classification_scores
from hpo.metrics.confusion import ClassPredictions, Floats, Integers
from hpo.metrics.metric import SelectionMetric

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")

# Five rows of two classes, by hand: predicted are 0, 1, 0, 0, 1.
TRUE = np.array([0, 1, 1, 0, 1])
OF_SPAM = np.array([0.1, 0.9, 0.42, 0.45, 0.82])
KNOWN_ANSWERS = {
    "accuracy": 4 / 5,
    "balanced_accuracy": (1 + 2 / 3) / 2,
    "f1": 4 / 5,
    "fbeta": 10 / 14,
    "precision": 1,
    "recall": 2 / 3,
    "macro_f1": (4 / 5 + 4 / 5) / 2,
    "macro_fbeta": (10 / 11 + 10 / 14) / 2,
    "macro_precision": (2 / 3 + 1) / 2,
    "macro_recall": (1 + 2 / 3) / 2,
    "micro_f1": 4 / 5,
    "micro_precision": 4 / 5,
    "micro_recall": 4 / 5,
    "weighted_f1": 4 / 5,
    "weighted_fbeta": (2 * 10 / 11 + 3 * 10 / 14) / 5,
    "weighted_precision": (2 * 2 / 3 + 3 * 1) / 5,
    "weighted_recall": 4 / 5,
    "matthews": (2 * 2 - 0 * 1) / math.sqrt(2 * 3 * 2 * 3),
    "roc_auc": 5 / 6,
    "average_precision": (1 + 1 + 3 / 4) / 3,
    "neg_log_loss": (2 * math.log(0.9) + math.log(0.42) + math.log(0.55) + math.log(0.82)) / 5,
    "neg_calibration_error": -((2 - 1.8) + (0.58 + 0.55 - 1) + (1 - 0.82)) / 5,
}


def scored(
    true: Integers, probabilities: Floats, *, positive: str | None = None, beta: float = 2.0, metric: str = "macro_f1"
) -> Scores:
    names = [f"class {number}" for number in range(probabilities.shape[1])]
    rows = probabilities[np.arange(len(true)), true]
    return classification_scores(
        ClassPredictions(true=true, probabilities=probabilities, loss=-float(np.log(rows).mean())),
        names,
        SelectionMetric(name=metric, positive=positive, beta=beta, note=""),
    )


def certain(true: list[int], predicted: list[int], classes: int = 2) -> tuple[Integers, Floats]:
    """Return predictions of which the model is nearly sure."""
    return np.array(true), np.eye(classes)[predicted] * 0.98 + 0.02 / classes


def two_columns(of_positive: Floats) -> Floats:
    return np.stack([1 - of_positive, of_positive], axis=1)


@st.composite
def predictions(draw: st.DrawFn, least_classes: int = 2, most_classes: int = 6) -> tuple[Integers, Floats]:
    """Draw true classes, of which some may be absent, and probabilities, some of them equal."""
    classes, rows = draw(st.integers(least_classes, most_classes)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    true = random.integers(0, draw(st.integers(1, classes)), rows)
    weights = random.integers(1, draw(st.sampled_from([3, 1000])), (rows, classes)).astype(float)
    return true, weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", METRICS)
def test_known_answer(name: str) -> None:
    scores = scored(TRUE, two_columns(OF_SPAM), positive="class 1", metric=name)
    assert scores.objective == scores.values[name] == pytest.approx(KNOWN_ANSWERS[name])


def test_what_stands_beside_the_values() -> None:
    scores = scored(TRUE, two_columns(OF_SPAM), positive="class 1")
    assert scores.confusion == ((2, 0), (1, 2))
    assert scores.rows == 5
    assert scores.values["loss"] == -scores.values["neg_log_loss"]
    assert scores.per_class["class 0"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
    }


def test_the_other_class_may_be_positive() -> None:
    scores = scored(TRUE, two_columns(OF_SPAM), positive="class 0")
    assert scores.values["precision"] == pytest.approx(2 / 3)
    assert scores.values["recall"] == 1.0
    assert scores.values["roc_auc"] == pytest.approx(5 / 6)
    assert scores.values["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


@settings(max_examples=40, deadline=None)
@given(drawn=predictions(), beta=st.sampled_from([0.5, 1.0, 2.0]))
def test_counted_scores_equal_scikit_learns(drawn: tuple[Integers, Floats], beta: float) -> None:
    true, probabilities = drawn
    predicted, numbers = probabilities.argmax(axis=1), np.arange(probabilities.shape[1])
    positive = "class 1" if len(numbers) == 2 else None
    scores = scored(true, probabilities, positive=positive, beta=beta)
    assert np.array_equal(scores.confusion, reference.confusion_matrix(true, predicted, labels=numbers))
    assert scores.values["accuracy"] == pytest.approx(reference.accuracy_score(true, predicted))
    # scikit-learn warns of a single class.
    alike = len({*true, *predicted}) == 1
    expected = 0.0 if alike else reference.matthews_corrcoef(true, predicted)
    assert scores.values["matthews"] == pytest.approx(expected)
    recalls = reference.recall_score(true, predicted, labels=np.unique(true), average=None, zero_division=0)
    assert scores.values["balanced_accuracy"] == pytest.approx(recalls.mean())
    options = {"labels": numbers, "zero_division": 0, "beta": beta}
    assert scores.values["macro_fbeta"] == pytest.approx(
        reference.fbeta_score(true, predicted, average="macro", **options)
    )
    assert scores.values["weighted_fbeta"] == pytest.approx(
        reference.fbeta_score(true, predicted, average="weighted", **options)
    )
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, f"{name}_score")
        for average in ("macro", "micro", "weighted"):
            expected = function(true, predicted, labels=numbers, average=average, zero_division=0)
            assert scores.values[f"{average}_{name}"] == pytest.approx(expected)
        per_class = function(true, predicted, labels=numbers, average=None, zero_division=0)
        assert [row[name] for row in scores.per_class.values()] == pytest.approx(per_class.tolist())
        if positive:
            assert scores.values[name] == pytest.approx(function(true, predicted, pos_label=1, zero_division=0))


@settings(max_examples=60, deadline=None)
@given(drawn=predictions())
def test_ranked_scores_equal_scikit_learns(drawn: tuple[Integers, Floats]) -> None:
    true, probabilities = drawn
    present = np.unique(true)
    if len(present) < 2:
        return
    two = probabilities.shape[1] == 2
    scores = scored(true, probabilities, positive="class 1" if two else None)
    for name, function in (
        ("roc_auc", reference.roc_auc_score),
        ("average_precision", reference.average_precision_score),
    ):
        of_class = [function(true == number, probabilities[:, number]) for number in present]
        assert scores.values[name] == pytest.approx(of_class[1] if two else np.mean(of_class)), name
    expected = reference.log_loss(true, probabilities, labels=np.arange(probabilities.shape[1]))
    assert scores.values["neg_log_loss"] == pytest.approx(-expected)


@settings(max_examples=40, deadline=None)
@given(drawn=predictions())
def test_the_calibration_error_is_the_sum_over_bins_of_its_definition(drawn: tuple[Integers, Floats]) -> None:
    true, probabilities = drawn
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    expected = 0.0
    for number in range(15):
        members = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if members.any():
            expected += members.sum() / len(true) * abs(right[members].mean() - confidence[members].mean())
    assert scored(true, probabilities).values["neg_calibration_error"] == pytest.approx(-expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(drawn=predictions())
def test_every_score_keeps_its_range_whatever_the_order_of_rows(drawn: tuple[Integers, Floats]) -> None:
    true, probabilities = drawn
    positive = "class 1" if probabilities.shape[1] == 2 else None
    values = scored(true, probabilities, positive=positive).values
    turned = scored(true[::-1], probabilities[::-1], positive=positive).values
    assert turned == pytest.approx(values)
    lowest = {"matthews": -1.0, "neg_calibration_error": -1.0, "neg_log_loss": -math.inf}
    highest = {"neg_calibration_error": 0.0, "neg_log_loss": 0.0, "loss": math.inf}
    for name, value in values.items():
        assert lowest.get(name, 0.0) - 1e-12 <= value <= highest.get(name, 1.0) + 1e-12, name


@pytest.mark.parametrize(
    ("name", "value"),
    [("f1", 0), ("fbeta", 0), ("precision", 0), ("recall", 0), ("macro_f1", 0.5), ("weighted_f1", 1), ("matthews", 0),
     ("balanced_accuracy", 1), ("roc_auc", 0.5), ("average_precision", 0)],
)  # fmt: skip
def test_where_no_row_is_positive(name: str, value: float) -> None:
    assert scored(*certain([0, 0], [0, 0]), positive="class 1").values[name] == value


@pytest.mark.parametrize(
    ("name", "value"), [("recall", 0.5), ("roc_auc", 0.5), ("average_precision", 1), ("matthews", 0)]
)
def test_where_every_row_is_positive(name: str, value: float) -> None:
    assert scored(*certain([1, 1], [1, 0]), positive="class 1").values[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("balanced_accuracy", 0.75), ("macro_recall", 0.5), ("macro_f1", (2 / 3 + 2 / 3) / 3), ("roc_auc", 0.75),
     ("average_precision", (5 / 6 + 1 / 2) / 2)],
)  # fmt: skip
def test_a_class_without_rows_counts_in_macro_means_alone(name: str, value: float) -> None:
    # The last two rows are equal, so that no order among them is seen: the second class counts from both their places.
    true, probabilities = np.array([0, 0, 1]), np.array([[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.1, 0.6, 0.3]])
    assert scored(true, probabilities).values[name] == pytest.approx(value)


def test_of_more_classes_a_single_one_in_all_rows_is_defined() -> None:
    values = scored(*certain([2, 2, 2], [2, 0, 2], classes=3)).values
    assert (values["roc_auc"], values["average_precision"]) == (0.5, 1.0)
    assert all(math.isfinite(value) for value in values.values())


def test_a_model_that_diverged_is_scored_without_a_complaint() -> None:
    scores = scored(np.array([0, 1, 2]), np.full((3, 3), np.nan))
    assert math.isnan(scores.values["loss"])
    assert math.isnan(scores.values["neg_log_loss"])
    assert scores.rows == 3


def test_counts_of_many_rows_do_not_overflow() -> None:
    rows = 400_000
    true, probabilities = certain([0, 1] * (rows // 2), [0, 1] * (rows // 2))
    values = scored(true, probabilities, positive="class 1").values
    assert (values["matthews"], values["roc_auc"]) == (1.0, 1.0)


def test_every_metric_of_the_list_is_computed_and_documented() -> None:
    values = scored(TRUE, two_columns(OF_SPAM), positive="class 1").values
    assert values.keys() == METRICS.keys() | {"loss"}
    assert [name for name in METRICS if f"`{name}`" not in PAGE] == []
    assert KNOWN_ANSWERS.keys() == METRICS.keys()


def test_more_classes_have_no_score_of_a_positive_one() -> None:
    values = scored(*certain([0, 1, 2], [0, 1, 2], classes=3)).values
    assert METRICS.keys() - values.keys() == {name for name, metric in METRICS.items() if metric.of_positive_class}


def test_the_example_of_the_page_is_the_known_answer() -> None:
    example = PAGE[PAGE.index("## An example") :]
    told = {name: float(value) for name, value in re.findall(r"\| `(\w+)` \|[^|]*\| (-?[\d.]+) \|", example)}
    assert told.keys() == METRICS.keys() - {name for name in METRICS if name.startswith(("macro", "micro", "weighted"))}
    assert told == {name: pytest.approx(KNOWN_ANSWERS[name], abs=5e-5) for name in told}


def test_values_cross_processes_as_plain_numbers() -> None:
    scores = scored(*certain([0, 1], [1, 1]), positive="class 1")
    assert {type(value) for value in scores.values.values()} == {float}
    assert {type(count) for row in scores.confusion for count in row} == {int}
    assert {type(value) for row in scores.per_class.values() for value in row.values()} <= {float, int}
