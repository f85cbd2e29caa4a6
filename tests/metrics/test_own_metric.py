"""A metric of the user's own is found, tried before training, and called as scikit-learn's functions are."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError, TrainingError
from hpo.messages import Scores
from hpo.metrics.classification import METRICS, classification_scores, resolve_metric
from hpo.metrics.confusion import ClassPredictions

NAMES = ["a", "b", "c"]
TRUE = np.array([0, 1, 2, 2])
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.0, 0.25, 0.75]])
PREDICTED_NAMES = ["a", "a", "c", "c"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def scored(spec: str, loss: float = 0.5) -> Scores:
    predictions = ClassPredictions(true=TRUE, probabilities=PROBABILITIES, loss=loss)
    return classification_scores(predictions, NAMES, resolve_metric(TaskConfig(metric=spec), NAMES, NAMES))


def test_a_function_of_scikit_learn_works_as_it_is() -> None:
    scores = scored("sklearn.metrics:cohen_kappa_score")
    assert scores.metric == "sklearn.metrics:cohen_kappa_score"
    assert scores.objective == pytest.approx(cohen_kappa_score(["a", "b", "c", "c"], PREDICTED_NAMES))
    assert scores.values["accuracy"] == 0.75


def test_the_metric_is_said_to_be_the_users() -> None:
    metric = resolve_metric(TaskConfig(metric="sklearn.metrics:cohen_kappa_score"), ["0", "1"], ["0", "1"])
    assert metric.note == (
        "The metric is sklearn.metrics:cohen_kappa_score: a function of your own, maximised; the positive class is "
        "'1' (by its name)."
    )


def test_a_function_in_the_working_folder_is_given_what_it_asks_for(folder: Path) -> None:
    (folder / "kept.py").write_text(
        "seen = []\n"
        "def score(true, predicted, *, labels, probabilities):\n"
        "    seen.append((list(true), list(predicted), labels, probabilities))\n"
        "    return 2\n"
    )
    assert scored("kept:score").objective == 2.0
    right, wrong, (true, predicted, labels, probabilities) = sys.modules["kept"].seen
    tried_true, tried, _, certain = right
    assert tried_true == tried == ["a", "a", "b", "b", "c", "c"]
    assert wrong[:2] == (tried_true, ["c", "c", "a", "a", "b", "b"])
    assert np.array_equal(certain, np.repeat(np.eye(3), 2, axis=0))
    assert (true, predicted, labels) == (["a", "b", "c", "c"], PREDICTED_NAMES, NAMES)
    assert np.array_equal(probabilities, PROBABILITIES)


def test_the_example_of_the_page(folder: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (folder / "my_metrics.py").write_text(code)
    true_classes = np.eye(3)[TRUE]
    assert scored("my_metrics:neg_brier").objective == -np.mean(np.sum((PROBABILITIES - true_classes) ** 2, axis=1))


def test_a_model_that_diverged_is_not_asked_about(folder: Path) -> None:
    (folder / "strict.py").write_text("def score(true, predicted):\n    assert len(true) == 6\n    return 1\n")
    assert math.isnan(scored("strict:score", loss=math.nan).objective)


def test_what_is_installed_comes_before_the_working_folder(folder: Path) -> None:
    (folder / "json.py").write_text("raise RuntimeError\n")
    with pytest.raises(ConfigurationError, match="module 'json' has no 'score'"):
        resolve_metric(TaskConfig(metric="json:score"), NAMES, NAMES)


BAD = """
import math
constant = 0.5
def raises(true, predicted): raise ValueError('no\\n  way.')
def lists(true, predicted): return [0.5, 0.5]
def nothing(true, predicted): pass
def endless(true, predicted): return math.inf
def takes_one(true): return 1
def needs_mistakes(true, predicted): return 1 / (true != predicted).sum().item()
"""


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("bad:", "task.metric is 'bad:', but a metric of your own is written module:function, as in sklearn"),
        (":score", "task.metric is ':score', but a metric of your own is written module:function"),
        ("..bad:score", "is written module:function"),
        ("bda:raises", "task.metric is 'bda:raises', but there is no module 'bda', neither installed nor in the "),
        ("bad.py:raises", "there is no module 'bad.py', neither installed nor in the working folder"),
        ("bad:rases", "task.metric is 'bad:rases', but module 'bad' has no 'rases'. Did you mean 'raises'? Known: "),
        ("bad:constant", "task.metric is 'bad:constant', but that is 0.5; name a function that is called as function("),
        ("bad:math", "but that is a value of type module; name a function"),
        ("bad:raises", "task.metric 'bad:raises' raised ValueError on 6 rows: no way. That was a try with 2 rows of "
                       "each label, all predicted right, then all wrong; it is called as function("),
        ("bad:lists", "must return one finite number, but on 6 rows it returned a value of type list."),
        ("bad:nothing", "must return one finite number, but on 6 rows it returned None."),
        ("bad:endless", "must return one finite number, but on 6 rows it returned inf."),
        ("bad:takes_one", "task.metric 'bad:takes_one' raised TypeError on 6 rows: "),
        ("bad:needs_mistakes", "raised ZeroDivisionError on 6 rows: division by zero."),
        # Its parameters cannot be read.
        ("builtins:max", "task.metric 'builtins:max' raised ValueError on 6 rows: "),
        ("broken:score", "task.metric is 'broken:score', but its module cannot be imported: SyntaxError: "),
        ("needy:score", "its module cannot be imported: ModuleNotFoundError: No module named 'not_there'."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_before_any_training(folder: Path, spec: str, sentence: str) -> None:
    (folder / "bad.py").write_text(BAD)
    (folder / "broken.py").write_text("def score(:\n")
    (folder / "needy.py").write_text("import not_there\n")
    with pytest.raises(ConfigurationError) as error:
        resolve_metric(TaskConfig(metric=spec), NAMES, NAMES)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_what_fails_on_some_rows_later_is_said_in_a_sentence(folder: Path) -> None:
    (folder / "late.py").write_text("def score(true, predicted):\n    return 1 / (len(true) - 4)\n")
    with pytest.raises(TrainingError) as error:
        scored("late:score")
    assert str(error.value) == "task.metric 'late:score' raised ZeroDivisionError on 4 rows: division by zero."


def test_no_name_of_ours_can_be_mistaken_for_a_users() -> None:
    assert not [name for name in METRICS if ":" in name]


def test_a_function_that_is_higher_for_what_is_wrong_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is 0 where all labels are predicted right and 1 where all are wrong"):
        resolve_metric(TaskConfig(metric="sklearn.metrics:zero_one_loss"), ("a", "b"), ("a", "b"))
