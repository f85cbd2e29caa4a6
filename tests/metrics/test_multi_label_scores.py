"""Multi-label scores and thresholds: equal to scikit-learn's, whatever labels rows have, none among them."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from hpo.messages import Scores
from hpo.metrics.metric import Objective
from hpo.metrics.multi_label import (
    METRICS,
    USUAL_THRESHOLD,
    LabelAnswers,
    best_thresholds,
    multi_label_scores,
    scores_without,
    tally,
)


def of_decisions(score: Callable[..., float], average: str) -> Callable[[LabelAnswers], float]:
    return lambda a: float(score(a.true, a.given, average=average, zero_division=0))


def over_labels(score: Callable[..., float], otherwise: float, both: bool) -> Callable[[LabelAnswers], float]:
    """Return the mean over the labels of which there are rows, and rows of others where `both`."""

    def mean(a: LabelAnswers) -> float:
        columns = zip(a.true.T, a.probabilities.T, strict=True)
        scores = [score(t, p) for t, p in columns if t.any() and not (both and t.all())]
        return float(np.mean(scores)) if scores else otherwise

    return mean


def log_loss(a: LabelAnswers) -> float:
    columns = zip(a.true.T, a.probabilities.T, strict=True)
    return -sum(float(sklearn.log_loss(t, p, labels=[False, True])) for t, p in columns)


KNOWN_ANSWERS: Mapping[str, Callable[[LabelAnswers], float]] = {
    **{
        f"{average}_{name}": of_decisions(score, average)
        for average in ("micro", "macro", "samples")
        for name, score in (
            ("f1", sklearn.f1_score),
            ("precision", sklearn.precision_score),
            ("recall", sklearn.recall_score),
        )
    },
    "accuracy": lambda a: float(sklearn.accuracy_score(a.true, a.given)),
    "roc_auc": over_labels(sklearn.roc_auc_score, 0.5, both=True),
    "average_precision": over_labels(sklearn.average_precision_score, 0.0, both=False),
    "neg_log_loss": log_loss,
}


@st.composite
def some_answers(draw: st.DrawFn) -> LabelAnswers:
    """Up to 12 rows of up to 4 labels; of a few probabilities, so that some are equal."""
    rows, labels = draw(st.integers(2, 12)), draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    true = random.random((rows, labels)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    probabilities = random.choice([0.01, 0.2, 0.4, 0.6, 0.99], size=(rows, labels))
    return LabelAnswers.of(true, probabilities, random.choice([0.3, 0.5, 0.995], size=labels))


def scored(answers: LabelAnswers, metric: str = "micro_f1") -> Scores:
    names = [f"label {number}" for number in range(answers.true.shape[1])]
    objective = Objective(metric=metric, note="")
    return multi_label_scores(answers, label_names=names, objective=objective)


@settings(deadline=None)
@given(some_answers())
def test_every_score_is_that_of_scikit_learn(answers: LabelAnswers) -> None:
    values = scored(answers).values
    assert values.keys() == METRICS.keys() | {"loss"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where there is nothing to divide by.
        for name, known in KNOWN_ANSWERS.items():
            assert values[name] == pytest.approx(known(answers), abs=1e-12), name


@settings(deadline=None)
@given(some_answers())
def test_each_label_has_its_own_scores(answers: LabelAnswers) -> None:
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        answers.true, answers.given, zero_division=0
    )
    for number, row in enumerate(scored(answers).per_class.values()):
        assert (row["precision"], row["recall"], row["f1"], row["support"], row["threshold"]) == pytest.approx(
            (precision[number], recall[number], f1[number], support[number], answers.thresholds[number]), abs=1e-12
        )


@settings(deadline=None)
@given(some_answers(), st.sampled_from(sorted(METRICS)))
def test_leaving_out_groups_by_counts_is_leaving_out_their_rows(answers: LabelAnswers, metric: str) -> None:
    groups = np.arange(answers.rows) % 3 % answers.rows
    groups = np.unique(groups, return_inverse=True)[1]
    left_out = scores_without(answers, groups, metric)
    expected = [METRICS[metric].of(tally(answers.take(groups != group))) for group in range(groups.max() + 1)]
    assert left_out == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(some_answers())
def test_no_threshold_gives_a_higher_f1_than_the_one_that_is_fitted(answers: LabelAnswers) -> None:
    def f1(thresholds: float) -> float:
        said = answers.probabilities >= thresholds
        return float(2 * (said & answers.true).sum() / (said.sum() + answers.true.sum()))

    fitted = best_thresholds(answers.true, answers.probabilities, per_label=False)
    assert len(set(fitted)) == 1
    if answers.true.any():
        assert f1(fitted[0]) == pytest.approx(max(f1(one) for one in (0, 0.1, 0.3, 0.5, 0.7)))
    else:
        assert fitted[0] == USUAL_THRESHOLD


@settings(deadline=None)
@given(some_answers())
def test_thresholds_of_each_label_are_fitted_to_it_alone(answers: LabelAnswers) -> None:
    fitted = best_thresholds(answers.true, answers.probabilities, per_label=True)
    for number, threshold in enumerate(fitted):
        alone = best_thresholds(answers.true[:, [number]], answers.probabilities[:, [number]], per_label=False)
        assert threshold == alone[0]


def test_a_threshold_lies_midway_between_what_it_divides() -> None:
    true = np.array([[True], [True], [False], [False]])
    assert best_thresholds(true, np.array([[0.9], [0.6], [0.2], [0.1]]), per_label=True) == pytest.approx([0.4])


@settings(deadline=None)
@given(some_answers())
def test_a_row_that_is_turned_is_no_longer_right_by_one_decision(answers: LabelAnswers) -> None:
    turned = answers.turned(answers.right)
    wrong = (turned.given != turned.true).sum(axis=1)
    assert (wrong[answers.right] == 1).all()
    assert np.array_equal(turned.given[~answers.right], answers.given[~answers.right])
