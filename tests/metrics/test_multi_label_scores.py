"""Multi-label scores and thresholds: equal to scikit-learn's, whatever labels rows have, none among them."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from hpo.messages import Scores
from hpo.metrics.multi_label import (
    METRICS,
    USUAL_THRESHOLD,
    LabelPredictions,
    best_thresholds,
    count_decisions,
    multi_label_scores,
    scores_without,
)


def of_decisions(score: Callable[..., float], average: str) -> Callable[[LabelPredictions], float]:
    return lambda a: float(score(a.true, a.predicted, average=average, zero_division=0))


def over_labels(score: Callable[..., float], otherwise: float, both: bool) -> Callable[[LabelPredictions], float]:
    """Return the mean over the labels of which there are rows, and rows of others where `both`."""

    def mean(a: LabelPredictions) -> float:
        columns = zip(a.true.T, a.probabilities.T, strict=True)
        scores = [score(t, p) for t, p in columns if t.any() and not (both and t.all())]
        return float(np.mean(scores)) if scores else otherwise

    return mean


def log_loss(a: LabelPredictions) -> float:
    columns = zip(a.true.T, a.probabilities.T, strict=True)
    return -sum(float(sklearn.log_loss(t, p, labels=[False, True])) for t, p in columns)


KNOWN_ANSWERS: Mapping[str, Callable[[LabelPredictions], float]] = {
    **{
        f"{average}_{name}": of_decisions(score, average)
        for average in ("micro", "macro", "samples")
        for name, score in (
            ("f1", sklearn.f1_score),
            ("precision", sklearn.precision_score),
            ("recall", sklearn.recall_score),
        )
    },
    "accuracy": lambda a: float(sklearn.accuracy_score(a.true, a.predicted)),
    "roc_auc": over_labels(sklearn.roc_auc_score, 0.5, both=True),
    "average_precision": over_labels(sklearn.average_precision_score, 0.0, both=False),
    "neg_log_loss": log_loss,
}


@st.composite
def some_predictions(draw: st.DrawFn) -> LabelPredictions:
    """Up to 12 rows of up to 4 labels; of a few probabilities, so that some are equal."""
    rows, labels = draw(st.integers(2, 12)), draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    true = random.random((rows, labels)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    probabilities = random.choice([0.01, 0.2, 0.4, 0.6, 0.99], size=(rows, labels))
    return LabelPredictions.of(true, probabilities, random.choice([0.3, 0.5, 0.995], size=labels))


def scored(predicted: LabelPredictions, metric: str = "micro_f1") -> Scores:
    names = [f"label {number}" for number in range(predicted.true.shape[1])]
    return multi_label_scores(predicted, names, metric)


@pytest.mark.slow
@settings(deadline=None)
@given(some_predictions())
def test_every_score_is_that_of_scikit_learn(predicted: LabelPredictions) -> None:
    values = scored(predicted).values
    assert values.keys() == METRICS.keys() | {"loss"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where there is nothing to divide by.
        for name, known in KNOWN_ANSWERS.items():
            assert values[name] == pytest.approx(known(predicted), abs=1e-12), name


@settings(deadline=None)
@given(some_predictions())
def test_each_label_has_its_own_scores(predicted: LabelPredictions) -> None:
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        predicted.true, predicted.predicted, zero_division=0
    )
    for number, row in enumerate(scored(predicted).per_class.values()):
        assert (row["precision"], row["recall"], row["f1"], row["support"], row["threshold"]) == pytest.approx(
            (precision[number], recall[number], f1[number], support[number], predicted.thresholds[number]), abs=1e-12
        )


@settings(deadline=None)
@given(some_predictions(), st.sampled_from(sorted(METRICS)))
def test_leaving_out_groups_by_counts_is_leaving_out_their_rows(predicted: LabelPredictions, metric: str) -> None:
    groups = np.arange(predicted.rows) % 3 % predicted.rows
    groups = np.unique(groups, return_inverse=True)[1]
    left_out = scores_without(predicted, groups, metric)
    expected = [
        METRICS[metric].compute(count_decisions(predicted.take(groups != group))) for group in range(groups.max() + 1)
    ]
    assert left_out == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(some_predictions())
def test_no_threshold_gives_a_higher_f1_than_the_one_that_is_fitted(predicted: LabelPredictions) -> None:
    def f1(thresholds: float) -> float:
        given = predicted.probabilities >= thresholds
        return float(2 * (given & predicted.true).sum() / (given.sum() + predicted.true.sum()))

    fitted = best_thresholds(predicted.true, predicted.probabilities, per_label=False)
    assert len(set(fitted)) == 1
    if predicted.true.any():
        assert f1(fitted[0]) == pytest.approx(max(f1(one) for one in (0, 0.1, 0.3, 0.5, 0.7)))
    else:
        assert fitted[0] == USUAL_THRESHOLD


@settings(deadline=None)
@given(some_predictions())
def test_thresholds_of_each_label_are_fitted_to_it_alone(predicted: LabelPredictions) -> None:
    fitted = best_thresholds(predicted.true, predicted.probabilities, per_label=True)
    for number, threshold in enumerate(fitted):
        alone = best_thresholds(predicted.true[:, [number]], predicted.probabilities[:, [number]], per_label=False)
        assert threshold == alone[0]


def test_a_threshold_lies_midway_between_what_it_divides() -> None:
    true = np.array([[True], [True], [False], [False]])
    assert best_thresholds(true, np.array([[0.9], [0.6], [0.2], [0.1]]), per_label=True) == pytest.approx([0.4])


@settings(deadline=None)
@given(some_predictions())
def test_a_row_that_is_flipped_is_no_longer_correct_by_one_decision(predicted: LabelPredictions) -> None:
    flipped = predicted.flipped(predicted.correct)
    wrong = (flipped.predicted != flipped.true).sum(axis=1)
    assert (wrong[predicted.correct] == 1).all()
    assert np.array_equal(flipped.predicted[~predicted.correct], predicted.predicted[~predicted.correct])
