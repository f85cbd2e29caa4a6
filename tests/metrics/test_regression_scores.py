"""Scores of a regression equal a known answer and those of scipy and scikit-learn, and are numbers of any rows."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from hpo.errors import ConfigurationError
from hpo.metrics.confusion import Floats
from hpo.metrics.regression import (
    METRICS,
    NumberPredictions,
    regression_score,
    regression_scores,
    resolve_regression_metric,
)

# Errors are 0, 1, -1 and 2; ranks 1, 2, 3, 4 and 1, 3, 2, 4.
TRUE, PREDICTED = (1.0, 2.0, 3.0, 5.0), (1.0, 3.0, 2.0, 7.0)
KNOWN_ANSWERS = {
    "pearson": 12.25 / math.sqrt(8.75 * 20.75),
    "spearman": 4 / 5,
    "r2": 1 - 6 / 8.75,
    "neg_rmse": -math.sqrt(6 / 4),
    "neg_mae": -1.0,
}
NUMBER = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda number: round(number, 3))


def numbers(true: object, predicted: object, sd: float = 2.0) -> NumberPredictions:
    return NumberPredictions(true=np.array(true, float), predicted=np.array(predicted, float), sd=sd)


@pytest.mark.parametrize("metric", METRICS)
def test_known_answers(metric: str) -> None:
    assert METRICS[metric].compute(numbers(TRUE, PREDICTED)) == pytest.approx(KNOWN_ANSWERS[metric])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """True and predicted numbers, with ties."""
    few = st.one_of(NUMBER, st.sampled_from((0.0, 1.0, 2.5)))
    rows = draw(st.lists(st.tuples(few, few), min_size=2, max_size=30))
    true, predicted = np.array(rows).T
    return true, predicted


@given(pairs())
def test_scores_are_those_of_scipy_and_scikit_learn(pair: tuple[Floats, Floats]) -> None:
    true, predicted = pair
    assume(np.ptp(true) > 1e-3 and np.ptp(predicted) > 1e-3)
    expected = {
        "pearson": stats.pearsonr(true, predicted).statistic,
        "spearman": stats.spearmanr(true, predicted).statistic,
        "r2": reference.r2_score(true, predicted),
        "neg_rmse": -reference.root_mean_squared_error(true, predicted),
        "neg_mae": -reference.mean_absolute_error(true, predicted),
    }
    found = {name: metric.compute(numbers(true, predicted)) for name, metric in METRICS.items()}
    assert found == {name: pytest.approx(value, rel=1e-6, abs=1e-6) for name, value in expected.items()}


@given(pairs())
def test_every_score_is_within_its_limits(pair: tuple[Floats, Floats]) -> None:
    for metric in METRICS.values():
        low, high = metric.limits
        assert low <= metric.compute(numbers(*pair)) <= high


@pytest.mark.parametrize(
    ("true", "predicted", "r2"),
    [
        ((1, 2, 4), (3, 3, 3), 1 - 6 / (14 / 3)),
        ((2, 2, 2), (1, 2, 3), 0),
        ((2, 2), (2, 2), 1),
        ((5,), (6,), 0),
        ((1e-170, 0), (6, 6), 0),
    ],
)
def test_what_is_always_the_same_correlates_with_nothing(true: object, predicted: object, r2: float) -> None:
    scores = regression_scores(numbers(true, predicted), resolve_regression_metric("auto"))
    assert (scores.values["pearson"], scores.values["spearman"]) == (0, 0)
    assert scores.values["r2"] == pytest.approx(r2)


def test_the_loss_is_the_mean_squared_error_over_the_variance_in_training() -> None:
    assert numbers(TRUE, PREDICTED, sd=3.0).loss == pytest.approx(6 / 4 / 9)


@pytest.mark.parametrize("answer", [math.nan, math.inf, 1e200])
def test_a_model_that_diverged_has_no_scores(answer: float) -> None:
    scores = regression_scores(numbers((1, 2), (1, answer)), resolve_regression_metric("auto"))
    assert all(math.isnan(scores.values[name]) for name in METRICS)
    assert not math.isfinite(scores.values["loss"])


@pytest.mark.parametrize(("metric", "resolved"), [("auto", "pearson"), *((name, name) for name in METRICS)])
def test_the_metric_is_said(metric: str, resolved: str) -> None:
    chosen = resolve_regression_metric(metric)
    assert chosen.name == resolved
    assert chosen.note == f"The metric is {resolved}: {METRICS[resolved].description}."
    expected = METRICS[resolved].compute(numbers(TRUE, PREDICTED))
    assert regression_score(numbers(TRUE, PREDICTED), chosen) == expected


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("rmse", "choose neg_rmse"),
        ("mae", "choose neg_mae"),
        ("pearsn", "Did you mean 'pearson'"),
        ("accuracy", "Regression has no metric 'accuracy'"),
    ],
)
def test_what_is_no_metric_of_numbers_is_refused(metric: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        resolve_regression_metric(metric)


def test_a_metric_of_ones_own_is_called_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "own_of_numbers.py").write_text(
        "def near(true, predicted):\n    return float((abs(true - predicted) <= 1).mean())\n"
        "def far(true, predicted):\n    return float((abs(true - predicted) > 1).mean())\n"
    )
    scores = regression_scores(numbers(TRUE, PREDICTED), resolve_regression_metric("own_of_numbers:near"))
    assert scores.objective == 3 / 4
    assert scores.values["pearson"] == pytest.approx(KNOWN_ANSWERS["pearson"])
    with pytest.raises(ConfigurationError, match="returns the negative of it"):
        resolve_regression_metric("own_of_numbers:far")
