"""The notes that hpo shows say what the store knows, and nothing in them is taken for markup."""

import re
from contextlib import closing
from dataclasses import replace

import pytest

from hpo.dashboard.study_page import as_code, escaped, study_note, trial_notes
from hpo.report.report_data import ReportData, read_report_data
from hpo.store.database import open_database
from hpo.verdict.findings import Confirmed, Interval, Verdict
from tests.dashboard.visiting import HOSTILE, searched, searched_through
from tests.search.scripted import led, rows

SENTENCES = ("Take trial 1: it beats *the default*.", "<b>Seeds</b> move it by 0.01.")


def verdict_for(trial: int) -> Verdict:
    confirmed = Confirmed(
        trial=trial,
        is_default=False,
        scores=(0.7, 0.8, 0.9),
        score=0.8,
        interval=Interval(low=0.75, high=0.85),
        search_score=0.95,
        seconds=3.0,
    )
    return Verdict(
        metric="macro_f1",
        rows=100,
        unseen=True,
        selection_bias=0.0,
        seed_noise=0.01,
        confirmed=(confirmed,),
        baselines=(),
        differences=(),
        best_of_search=0.9,
        winner=trial,
        recommended=trial,
        sentences=SENTENCES,
    )


@pytest.fixture
def report_data(sqlite_url: str) -> ReportData:
    searched_through(sqlite_url)
    with closing(open_database(sqlite_url)) as database:
        return read_report_data(database)


def test_without_a_confirmation_the_note_says_so(report_data: ReportData) -> None:
    note = study_note(report_data)
    best = report_data.results.best
    scored = f"- Trial {best.number} scored best in the search\\: macro\\_f1 {best.score:.4f} ±0.0".replace(
        "0.", "0\\."
    )
    assert note.startswith(f"## Best so far: trial {best.number}\n\n{scored}")
    assert "so part of it is selection bias" in note
    assert "| learning\\_rate |" in note
    assert "### Failed: 1 of 4 trials\n\n- 1 × failed: `` ValueError: <img" in note
    assert "still running" not in note
    assert note.endswith("Your own note replaces it.*")


def test_the_default_is_named_or_said_to_be_the_best(report_data: ReportData) -> None:
    first, second = (trial for trial in report_data.results.trials if trial.state == "COMPLETE")
    assert "It is the default configuration" in study_note(with_scores(report_data, {first.number: 0.9}))
    assert "The default configuration scored 0\\.5000\\, which is 0\\.4000 less\\." in study_note(
        with_scores(report_data, {first.number: 0.5, second.number: 0.9})
    )


def with_scores(report_data: ReportData, scores: dict[int, float]) -> ReportData:
    trials = tuple(
        replace(trial, score=scores.get(trial.number, 0.1), proposed_by="default" if trial.number == 0 else "sampler")
        if trial.state == "COMPLETE"
        else trial
        for trial in report_data.results.trials
    )
    return replace(report_data, results=replace(report_data.results, trials=trials))


def test_a_verdict_comes_first_and_its_words_are_text(report_data: ReportData) -> None:
    note = study_note(replace(report_data, verdict=verdict_for(1), advice=("Widen learning_rate.",)))
    assert note.startswith(
        "## Verdict\n\n- Take trial 1\\: it beats \\*the default\\*\\.\n- \\<b\\>Seeds\\<\\/b\\> move it by 0\\.01\\."
    )
    assert "### Trial 1\n" in note
    assert "### Advice\n\n- Widen learning\\_rate\\." in note
    assert "Best so far" not in note


def test_trials_that_ended_badly_or_were_confirmed_have_notes(report_data: ReportData) -> None:
    notes = trial_notes(replace(report_data, verdict=verdict_for(1)))
    assert sorted(notes) == [1, 2, 3]
    assert notes[1].startswith(
        "**Confirmed** on 3 fresh seeds: macro\\_f1 0.8000 (0.7500 to 0.8500); in the search it scored 0.9500."
    )
    where = r"\*\*Pruned at macro\\_f1 0\.\d{4}, after \d+% of the longest trial\.\*\*"
    assert re.match(rf"{where} ` pruned at rung ", notes[2])
    assert notes[3].startswith("**Failed.** `` ValueError: <img src=x ")


def test_a_trial_pruned_on_folds_came_so_far_through_them(report_data: ReportData) -> None:
    in_folds = dict(report_data.results.configuration) | {"evaluation": {"folds": 5}}
    notes = trial_notes(replace(report_data, results=replace(report_data.results, configuration=in_folds)))
    assert "% of the folds.** " in notes[2]


def test_a_study_in_which_nothing_completed_has_a_note(sqlite_url: str) -> None:
    with led(searched(sqlite_url)), closing(open_database(sqlite_url)) as database:
        assert study_note(read_report_data(database)).startswith(
            "## No trial has completed yet\n\nThe search is still running.\n\n"
        )


def test_many_reasons_are_counted_and_cut(report_data: ReportData) -> None:
    failed = next(trial for trial in report_data.results.trials if trial.state == "FAIL")
    more = [replace(failed, number=10 + n, reason=f"reason {n // 2}") for n in range(14)]
    note = study_note(
        replace(report_data, results=replace(report_data.results, trials=(*report_data.results.trials, *more)))
    )
    assert "- 2 × failed: ` reason 0 `\n- 2 × failed: ` reason 1 `" in note
    assert "- 3 more reasons, each in the note of its trial." in note


def test_text_is_escaped_to_the_letter() -> None:
    assert escaped("a_b\n<i> [x](http://y) `c`") == "a\\_b \\<i\\> \\[x\\]\\(http\\:\\/\\/y\\) \\`c\\`"
    assert as_code("no ticks") == "` no ticks `"
    assert as_code("one ` two `` \n three") == "``` one ` two `` three ```"


def test_a_reason_is_in_the_store_as_it_was_said(sqlite_url: str) -> None:
    """Or else the tests above would prove nothing of hostile text."""
    searched_through(sqlite_url)
    assert (HOSTILE,) in rows(sqlite_url, "SELECT reason FROM hpo_attempts")
