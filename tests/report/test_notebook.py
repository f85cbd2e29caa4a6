"""A study in a notebook: frames with a row for everything there is, figures by name, errors as sentences."""

import sys

import pytest

from hpo.errors import ConfigurationError, NoResultError
from hpo.report.figures import FIGURES
from hpo.report.notebook import Study
from hpo.report.report_data import ReportData
from tests.report.studies import report_data, several, trial, verdict


def test_trials_have_a_row_each_with_scores_and_hyperparameters() -> None:
    frame = Study(report_data([*several(4), trial(4, state="FAIL", reason="RuntimeError")])).trials
    assert list(frame.number) == [0, 1, 2, 3, 4]
    assert list(frame.columns[:4]) == ["number", "state", "score", "train_score"]
    assert frame.loc[1, "optimizer"] == "momentum"
    assert frame.loc[0, "validation_accuracy"] == frame.loc[0, "score"]
    assert frame.loc[4, "reason"] == "RuntimeError"
    assert frame.loc[0, "seed"] is not None, "each trial's own, where its configuration names none"


def test_evaluations_have_a_row_each() -> None:
    frame = Study(report_data(several(3))).evaluations
    assert len(frame) == 12
    assert {"trial", "rung", "score", "learning_rate", "train_loss"} <= set(frame.columns)


def test_the_verdict_has_a_row_for_each_comparison() -> None:
    frame = Study(report_data(several(4), verdict=verdict(3))).verdict
    assert list(frame.against) == ["the default"]
    assert (frame.loc[0, "difference"], frame.loc[0, "low"], frame.loc[0, "high"]) == (0.1, 0.06, 0.14)
    assert (frame.loc[0, "decision"], frame.loc[0, "take"]) == ("better", 3)
    assert frame.loc[0, "reason"] == "better than the default"


def test_what_was_confirmed_has_a_row_for_each_configuration_and_each_baseline() -> None:
    frame = Study(report_data(several(4), verdict=verdict(3))).confirmed
    assert list(frame.name) == ["trial 3", "trial 0", "majority class"]
    assert list(frame.recommended) == [True, False, False]


@pytest.mark.parametrize("study", [report_data([]), report_data([trial(0, state="RUNNING")])], ids=["empty", "running"])
def test_frames_without_a_row_have_their_columns(study: ReportData) -> None:
    frames = Study(study)
    assert len(frames.verdict) == len(frames.confirmed) == 0
    assert "score" in frames.trials.columns
    assert "rung" in frames.evaluations.columns
    assert "interval" not in frames.verdict.columns
    assert "low" in frames.verdict.columns


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_its_name_as_its_title_or_raises_why_not(name: str) -> None:
    study = Study(report_data(several(8)))
    missing = {"by_group": "this one was neither", "by_length": "this one was neither", "differences": "Nothing was"}
    if name in missing:
        with pytest.raises(NoResultError, match=missing[name]):
            study.figure(name)
    else:
        assert study.figure(name).layout.title.text.startswith(name.replace("_", " "))


def test_an_unknown_figure_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'slices'"):
        Study(report_data([])).figure("slice")


def test_without_pandas_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match=r"llm-hpo\[notebook\]"):
        _ = Study(report_data([])).trials
