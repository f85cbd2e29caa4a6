"""Which score counts, and of two classes which is positive, is decided by rules that are said aloud."""

import pytest

from hpo.config.tasks import TaskConfig
from hpo.errors import ConfigurationError
from hpo.metrics.classification import METRICS, NEGATED, resolve_metric
from hpo.metrics.metric import SelectionMetric
from hpo.metrics.registry import METRICS as METRICS_OF_TASKS
from hpo.metrics.registry import refuse_unknown_metric

THREE = ["a", "b", "c"]


def resolved(
    names: list[str], train: list[str], metric: str = "auto", positive: str | None = None
) -> tuple[str, str | None]:
    chosen = resolve_metric(TaskConfig(metric=metric, positive_label=positive), names, train)
    return chosen.name, chosen.positive


@pytest.mark.parametrize(
    ("names", "train", "positive"),
    [
        (["0", "1"], ["1", "1", "0"], "1"),
        (["False", "True"], ["True", "True", "False"], "True"),
        (["NO", "YES"], ["YES", "YES", "NO"], "YES"),
        (["Positive", "negative"], ["Positive", "Positive", "negative"], "Positive"),
        (["ham", "spam"], ["ham", "ham", "spam"], "spam"),
        (["ham", "spam"], ["spam", "spam", "ham"], "spam"),
        (["neg", "pos"], ["pos", "pos", "neg"], "pos"),
        (["1", "2"], ["2", "2", "1"], "2"),
        (["-1", "1"], ["1", "1", "-1"], "1"),
        (["0.5", "2"], ["2", "2", "0.5"], "2"),
        (["10", "9"], ["10", "10", "9"], "10"),
        (["inf", "nan"], ["inf", "inf", "nan"], "nan"),
        (["cat", "dog"], ["dog", "dog", "cat"], "cat"),
        (["cat", "dog"], ["cat", "dog"], "dog"),
    ],
)
def test_the_positive_class_is_told_by_name_then_by_rarity(names: list[str], train: list[str], positive: str) -> None:
    assert resolved(names, train) == ("f1", positive)


def test_what_is_asked_for_comes_first() -> None:
    assert resolved(["0", "1"], ["1", "0", "0"], positive="0") == ("f1", "0")
    assert resolved(["0", "1"], ["1", "0"], metric="macro_f1") == ("macro_f1", "1")
    assert resolved(THREE, THREE) == ("macro_f1", None)
    assert resolved(THREE, THREE, metric="weighted_recall") == ("weighted_recall", None)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_may_be_chosen_for_two_classes(metric: str) -> None:
    assert resolved(["0", "1"], ["0", "1"], metric=metric) == (metric, "1")


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if not metric.of_positive_class])
def test_those_without_a_positive_class_may_be_chosen_for_more(metric: str) -> None:
    assert resolved(THREE, THREE, metric=metric) == (metric, None)


def test_the_reason_is_said() -> None:
    assert resolve_metric(TaskConfig(), ["ham", "spam"], ["ham", "ham", "spam"]) == SelectionMetric(
        name="f1",
        positive="spam",
        beta=2.0,
        note="The metric is F1 of the positive class 'spam' (by its name).",
    )

    def note(labels: list[str], train: list[str] | None = None, **asked: str) -> str:
        return resolve_metric(TaskConfig(**asked), labels, train or labels).note  # type: ignore[arg-type]

    notes = {
        note(["0", "1"], metric="recall"): "recall of the positive class '1' (by its name)",
        note(["0", "1"], positive_label="0"): "positive class '0' (as asked)",
        note(["1", "2"]): "positive class '2' (the larger number; task.positive_label=1 takes the other).",
        note(["x", "y"], ["y", "x"]): "'y' (the last of two equally frequent in training)",
        note(["0", "1"], ["0"], metric="accuracy"): "predicted right; the positive class is '1'",
        note(["0", "1"], ["0"], metric="roc_auc"): "roc_auc: area under the ROC curve of the positive",
        note(THREE): "macro_f1: mean of the classes' F1, each class counted alike.",
    }
    assert [part for note, part in notes.items() if part not in note] == []


@pytest.mark.parametrize(
    ("metric", "names", "positive", "sentence"),
    [
        ("makro_f1", THREE, None, "Classification has no metric 'makro_f1'. Did you mean 'macro_f1'?"),
        ("f1", THREE, None, "there are 3 classes; choose macro_f1, weighted_f1 or micro_f1."),
        ("recall", THREE, None, "choose macro_recall, weighted_recall or micro_recall."),
        ("fbeta", THREE, None, "'fbeta' is that of one positive class of two, but there are 3 classes; choose "
                               "macro_fbeta or weighted_fbeta."),
        ("log_loss", THREE, None, "task.metric is 'log_loss', but a metric is maximised; choose neg_log_loss."),
        ("loss", ["0", "1"], None, "choose neg_log_loss."),
        ("calibration_error", THREE, None, "choose neg_calibration_error."),
        ("auto", THREE, "a", "positive_label is 'a', but a positive class needs two classes and there are 3"),
        ("auto", ["ham", "spam"], "spma", "There is no label 'spma'. Did you mean 'spam'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_the_metric_is_refused(
    metric: str, names: list[str], positive: str | None, sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as error:
        resolve_metric(TaskConfig(metric=metric, positive_label=positive), names, names)
    assert sentence in str(error.value)


@pytest.mark.parametrize("task", METRICS_OF_TASKS)
def test_a_metric_that_no_data_could_have_is_refused_before_they_are_read(task: str) -> None:
    for name in ("auto", *METRICS_OF_TASKS[task]):
        refuse_unknown_metric(task, name)
    with pytest.raises(ConfigurationError, match=r"has no metric 'rougeL'\. Known: "):
        refuse_unknown_metric(task, "rougeL")
    if task != "multi_label":
        refuse_unknown_metric(task, "math:dist")
        with pytest.raises(ConfigurationError, match="module 'math' has no 'dits'"):
            refuse_unknown_metric(task, "math:dits")


def test_what_is_named_instead_of_a_loss_exists() -> None:
    assert set(NEGATED.values()) <= METRICS.keys()
    assert not NEGATED.keys() & METRICS.keys()
