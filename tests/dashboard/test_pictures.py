"""Pictures of single trials: what there is of which, and that any label is drawn as text and nothing else."""

from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from hpo.dashboard.pictures import DRAWN, MOST_NAMED, MOST_WRITTEN, artifacts_of, axis_ends, picture, ticks_between
from hpo.report.report_data import ReportData
from tests.report.studies import report_data, scores, several, trial

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (r"$\frac{", "<script>a</script>", 'x" onload="y', "a\nb", "a\ufffeb", "&lt;", "愛 حب", "_" * 99, "")


def names(study: ReportData, number: int) -> list[str]:
    return [one["filename"] for one in artifacts_of(study).get(number, [])]


def texts(svg: bytes) -> list[str]:
    """Return the texts of a picture, which must be well-formed."""
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_trial_that_was_never_evaluated_or_still_trains_has_no_picture() -> None:
    study = report_data([trial(0, state="FAIL"), trial(1, 0.5, state="RUNNING")])
    assert names(study, 0) == []
    assert names(study, 1) == []


def test_a_trial_that_was_given_up_has_a_learning_curve() -> None:
    given_up = replace(trial(0, 0.5, state="PRUNED"), validation=None)
    assert names(report_data([given_up]), 0) == ["learning-curve-0.svg"]


def test_a_learning_curve_is_drawn_beside_that_of_the_trial_to_take() -> None:
    study = report_data([trial(0, 0.6), trial(1, 0.9)])
    said = texts(picture(study, "learning_curve", 0))
    assert {"trial 0", "trial 1", "macro f1", "share of the longest trial that was seen, in %"} <= set(said)
    of_the_best = texts(picture(study, "learning_curve", 1))
    assert "trial 0" not in of_the_best


def test_a_confusion_matrix_has_the_shares_of_each_label() -> None:
    confused = replace(scores(0.9), confusion=((27, 3), (0, 30)))
    study = report_data([replace(trial(0, 0.9), validation=confused)])
    said = texts(picture(study, "confusion_matrix", 0))
    assert said[-5:] == ["label", "90", "10", "0", "100"]


def test_a_label_is_text_whatever_stands_in_it() -> None:
    study = report_data([replace(trial(0, 0.9), validation=scores(0.9, HOSTILE))])
    drawn = picture(study, "confusion_matrix", 0)
    assert {r"$\frac{", "<script>a</scri…", 'x" onload="y', "a·b", "&lt;", "愛 حب", "_" * 15 + "…"} <= set(texts(drawn))
    elements = list(ElementTree.fromstring(drawn).iter())
    assert f"{SVG}script" not in {one.tag for one in elements}
    assert not [name for one in elements for name in one.attrib if name.lower().startswith("on")]


@pytest.mark.parametrize("classes", [1, 9, 77])
def test_any_number_of_classes_is_drawn(classes: int) -> None:
    study = report_data(
        [replace(trial(0, 0.9), validation=scores(0.9, [f"label {place}" for place in range(classes)]))]
    )
    said = texts(picture(study, "confusion_matrix", 0))
    assert ("label 0" in said) == (classes <= MOST_NAMED)
    assert ("100" in said) == (classes <= MOST_WRITTEN)


@pytest.mark.parametrize("said", [[0.5], [0.0, 0.0], [-3.0, -0.1], [0.91, 0.9102], [1e-7, 2e-7]])
def test_an_axis_has_round_numbers_between_its_ends(said: list[float]) -> None:
    low, high = axis_ends(said)
    ticks = ticks_between(low, high)
    assert low < min(said) <= max(said) < high
    assert 4 <= len(ticks) <= 11
    assert low <= ticks[0] <= ticks[-1] <= high
    steps = {f"{after - before:.2e}" for before, after in pairwise(ticks)}
    assert len(steps) == 1
    assert steps.pop()[0] in "125"


def test_identifiers_are_what_optuna_dashboard_can_ask_for() -> None:
    artifacts = [one for listed in artifacts_of(report_data(several(12))).values() for one in listed]
    identifiers = {str(one["artifact_id"]) for one in artifacts}
    assert len(identifiers) == len(artifacts) == 12 * len(DRAWN)
    assert set("".join(identifiers)) <= set("0123456789abcdef-")
