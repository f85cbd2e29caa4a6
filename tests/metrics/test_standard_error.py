"""What the choice of rows moves a stored score by, told from its confusion."""

import numpy as np
import pytest

from hpo.messages import Scores
from hpo.metrics.classification import METRICS, classification_score, classification_scores
from hpo.metrics.confusion import ClassPredictions
from hpo.metrics.jackknife import OF_PROBABILITIES, deviations, standard_error, with_standard_error
from hpo.metrics.metric import SelectionMetric


def predictions(classes: int, rows: int = 120, seed: int = 0) -> ClassPredictions:
    random = np.random.default_rng(seed)
    true = random.integers(classes, size=rows)
    wrong = random.random(rows) < 0.3
    predicted = np.where(wrong, random.integers(classes, size=rows), true)
    probabilities = np.full((rows, classes), 0.3 / max(1, classes - 1))
    probabilities[np.arange(rows), predicted] = 0.7
    return ClassPredictions.of(true, probabilities)


OF_COUNTS = [name for name in METRICS if name not in OF_PROBABILITIES]
OF_MORE = [name for name in OF_COUNTS if not METRICS[name].of_positive_class]


@pytest.mark.parametrize(("metric", "classes"), [*((name, 2) for name in OF_COUNTS), *((name, 4) for name in OF_MORE)])
def test_it_is_the_jackknife_that_leaves_out_one_row_at_a_time(metric: str, classes: int) -> None:
    names = [f"class {number}" for number in range(classes)]
    chosen = SelectionMetric(name=metric, positive=names[1] if classes == 2 else None, beta=2.0, note="")
    predicted = predictions(classes)
    scores = classification_scores(predicted, names, chosen)

    def on(kept: np.ndarray) -> float:  # type: ignore[type-arg]
        return classification_score(predicted.take(kept), names, chosen)

    one_by_one = np.array(deviations(on, np.arange(120)))
    assert standard_error(scores, 2.0) == pytest.approx(float((one_by_one**2).sum()) ** 0.5, rel=1e-6)


def test_of_accuracy_it_is_the_standard_error_of_a_share() -> None:
    scores = Scores(metric="accuracy", values={"accuracy": 0.8}, rows=400, confusion=((180, 20), (60, 140)))

    assert standard_error(scores) == pytest.approx((0.8 * 0.2 / 399) ** 0.5)
    assert with_standard_error(0.8, scores) == "0.8000 ±0.020"
    assert with_standard_error(0.8, scores, seeds=0.03) == "0.8000 ±0.036"


def test_what_counts_do_not_tell_is_not_told() -> None:
    counts = ((180, 20), (60, 140))
    for metric in (*OF_PROBABILITIES, "module:function", "fbeta"):
        assert standard_error(Scores(metric=metric, values={metric: 0.8}, rows=400, confusion=counts)) is None
    none_wrong = Scores(metric="accuracy", values={"accuracy": 1.0}, rows=20, confusion=((10, 0), (0, 10)))
    assert with_standard_error(1.0, none_wrong) == "1.0000"
    assert with_standard_error(0.5, None) == "0.5000"
    assert with_standard_error(None, None) == "–"


def test_a_small_class_moves_macro_f1_by_a_tenth() -> None:
    counts = ((100, 2, 0), (3, 90, 1), (1, 2, 3))
    scores = Scores(metric="macro_f1", values={"macro_f1": 0.86}, rows=202, confusion=counts)

    assert standard_error(scores) == pytest.approx(0.07, abs=0.02)
