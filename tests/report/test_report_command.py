"""`hpo report` over a real store: what it writes, while a search runs too, and what it refuses in a sentence."""

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hpo.cli.main import app
from hpo.errors import ConfigurationError, HpoError, StoreError
from hpo.report.notebook import load_study
from hpo.report.page import MARK
from hpo.report.report_data import read_report_data
from hpo.store.database import open_database
from hpo.store.migrations.upgrade import VERSION_TABLE
from hpo.store.study_store import CONFIRMS_ATTRIBUTE
from tests.search.scripted import CPU, led, plain_study, report_at, search, study_at, train, written


def reported(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)


def test_a_study_becomes_one_file(sqlite_url: str, tmp_path: Path) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        search(coordinator)
    output = tmp_path / "report.html"
    assert "open it in a browser" in reported("--store", sqlite_url, "--output", str(output)).output
    text = output.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "4 trials: 4 completed" in text
    assert "hpo confirm trains the best trials and the default again" in text
    assert "learning_rate:" in text, "its search space"
    assert sqlite_url.removeprefix("sqlite:///") not in text, "nothing says where the store is"
    assert [path.name for path in tmp_path.glob("report*")] == ["report.html"], "nothing is left beside it"


def test_it_reads_a_search_that_runs_and_writes_nothing_to_its_store(database_url: str, tmp_path: Path) -> None:
    with led(study_at(database_url)) as coordinator:
        first = coordinator.next_assignment("one", CPU)
        assert first is not None
        train(coordinator, first)
        second = coordinator.next_assignment("two", CPU)
        assert second is not None
        coordinator.observe(report_at(second, second.milestones[0], 0.5))
        said = reported("--store", database_url, "--output", str(tmp_path / "report.html")).output
        assert "the search is still running" in said
        assert coordinator.next_assignment("three", CPU) is not None, "the search goes on"
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The search is still running, led by" in text
    assert "1 completed, 1 in training" in text


def test_where_every_trial_failed_the_report_says_so(sqlite_url: str, tmp_path: Path) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        search(coordinator)
    written(
        sqlite_url,
        "UPDATE trials SET state = 'FAIL'",
        "UPDATE hpo_attempts SET ending = 'failed', reason = 'RuntimeError: <b>no</b>', best_rung = NULL",
    )
    reported("--store", sqlite_url, "--output", str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No trial has completed, so there is no configuration to take" in text
    assert "RuntimeError: &lt;b&gt;no&lt;/b&gt;" in text


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("--store", "sqlite:///{folder}/none.db"), StoreError, "none.db"),
        (("--store", "{url}", "--study", "scriptd"), ConfigurationError, "Did you mean 'scripted'"),
        (("--store", "{url}", "--output", "{folder}"), ConfigurationError, "it is a folder"),
        (("--store", "{url}", "--output", "{folder}/none/report.html"), ConfigurationError, "name another place"),
        (("--store", "{url}", "--output", "{folder}/report.pdf"), ConfigurationError, r"is HTML, but .* ends in \.pdf"),
    ],
)
def test_what_cannot_be_is_refused(
    sqlite_url: str, tmp_path: Path, arguments: tuple[str, ...], error: type[HpoError], sentence: str
) -> None:
    with led(study_at(sqlite_url, budget={"trials": 1})) as coordinator:
        search(coordinator)
    with pytest.raises(error, match=sentence):
        reported(*(argument.format(folder=tmp_path, url=sqlite_url) for argument in arguments))


def test_a_store_is_not_written_over_whatever_it_is_called(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("night.html").write_bytes(Path("hpo.db").read_bytes())
    with pytest.raises(ConfigurationError, match=r"Cannot write night\.html: it holds something else"):
        reported("--store", sqlite_url, "--output", "night.html")
    assert Path("night.html").read_bytes() == Path("hpo.db").read_bytes()


@pytest.mark.parametrize("name", ["hpo.db-wal", "hpo.db-shm", "texts.jsonl", "notes", "old.html"])
def test_nothing_of_the_users_is_written_over(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if name.startswith("hpo.db"):
        keeps = sqlite3.connect("hpo.db")
        keeps.execute("PRAGMA journal_mode = WAL")
        keeps.execute("CREATE TABLE kept (number INTEGER)")
    else:
        keeps = None
        Path(name).write_text('{"text": "mine"}\n')
    before = Path(name).read_bytes()
    with pytest.raises(ConfigurationError, match=r"or delete it first|SQLite keeps a file of such a name"):
        reported("--store", sqlite_url, "--output", name)
    assert Path(name).read_bytes() == before
    if keeps is not None:
        keeps.close()


def test_a_report_takes_the_place_of_an_earlier_one_and_of_an_empty_file(sqlite_url: str, tmp_path: Path) -> None:
    with led(study_at(sqlite_url)) as coordinator:
        search(coordinator)
    output = tmp_path / "night.v2"
    output.touch()
    for _ in range(2):
        reported("--store", sqlite_url, "--output", str(output))
        assert output.read_text(encoding="utf-8").startswith(MARK)


def test_the_runs_of_a_confirmation_have_no_report_of_their_own(sqlite_url: str) -> None:
    """It would say of runs of one configuration that the best of them is the one to take."""
    with led(study_at(sqlite_url)) as coordinator:
        search(coordinator)
    with plain_study(sqlite_url) as study:
        study.set_user_attr(CONFIRMS_ATTRIBUTE, "searched")
    with pytest.raises(ConfigurationError, match="confirm trials of 'searched', which has the verdict"):
        reported("--store", sqlite_url, "--study", "scripted")


def test_a_store_of_a_newer_version_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    written(sqlite_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer"):
        reported("--store", sqlite_url, "--output", str(tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_a_trial_that_began_anew_has_the_curve_of_its_newest_attempt(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 1})) as coordinator:
        search(coordinator)
    written(
        sqlite_url,
        "UPDATE hpo_evaluations SET score = 0.5",
        # An attempt before it, that came further at its second rung and began anew.
        "CREATE TEMP TABLE older AS SELECT * FROM hpo_evaluations",
        "UPDATE older SET attempt = 0, score = 0.9",
        "INSERT INTO hpo_evaluations SELECT * FROM older",
        "DELETE FROM hpo_evaluations WHERE attempt = 1 AND rung > 500",
    )
    database = open_database(sqlite_url, must_exist=True)
    try:
        told = read_report_data(database).history.evaluations
    finally:
        database.close()
    assert {(one.attempt, one.score) for one in told} == {(1, 0.5)}
    assert max(one.rung for one in told) == 500, "what the older attempt reached is not where the trial stands"


def test_a_notebook_draws_any_figure_in_three_lines(sqlite_url: str) -> None:
    with led(study_at(sqlite_url, budget={"trials": 6})) as coordinator:
        search(coordinator)
    study = load_study(sqlite_url)
    assert study.figure("learning_curves").layout.title.text == "learning curves"
    assert len(study.trials) == 6
    assert set(study.evaluations.trial) == set(range(6))
    assert study.trials.score.max() == study.results.best.score
