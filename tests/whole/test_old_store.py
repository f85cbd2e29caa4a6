"""A store that an earlier hpo wrote is read, reported, exported and confirmed, and searched on or refused as designed.

`stores/semantics_2.sql.gz` is a dump of one with two studies of four trials over the texts and the model of
`tests.models`: `searched`, with a fifth trial that waits, and `confirmed`, with two runs of the default and of trial 1.
"""

import gzip
import sqlite3
from pathlib import Path

import pytest
import yaml

from hpo.messages import SEMANTICS
from tests.command_line import Hpo
from tests.models import save_tiny_bert, write_texts

DUMP = Path(__file__).parent / "stores" / "semantics_2.sql.gz"
STUDY = {
    "model": {"name": "model"},
    "data": {"train": "texts.csv", "test_fraction": 0.2},
    "space": {
        "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1, "default": 1.5e-3},
        "batch_size": {"values": [8, 16], "default": 8},
        "epochs": {"value": 2},
        "max_length": {"value": 16},
    },
    "search": {"sampler": "random", "pruner": "median", "pruner_startup_trials": 1},
    "evaluation": {"rung_rows": 12, "rungs": 4, "first_rung": 250},
    "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
    "budget": {"trials": 4},
    "confirmation": {"finalists": 1, "audit": 0},
    "store": {"url": "sqlite:///hpo.db"},
}
SCORES = {0: 0.0, 1: 0.96, 2: 0.75, 3: 2 / 3}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store was written: with its model, its texts and its study file beside it, without weights."""
    monkeypatch.chdir(tmp_path)
    save_tiny_bert(Path("model"))
    write_texts(Path("texts.csv"), rows=120)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    with sqlite3.connect("hpo.db") as store:
        store.executescript(gzip.decompress(DUMP.read_bytes()).decode())
    store.close()
    return tmp_path


def rows(select: str) -> list[tuple[object, ...]]:
    with sqlite3.connect("hpo.db") as store:
        found = store.execute(select).fetchall()
    store.close()
    return found


@pytest.mark.usefixtures("folder")
def test_its_results_and_its_verdict_are_as_they_were(hpo: Hpo) -> None:
    listed = hpo("studies").out
    assert "searched" in listed
    assert "confirmed" in listed
    shown = hpo("best", "--study", "confirmed")
    assert shown.code == 0
    first, second, third = shown.out.splitlines()[:3]
    assert first == "Undecided: 2 seeds of each are too few; hpo confirm confirmation.runs=12 trains more."
    assert second == (
        "Until then, take the default, trial 0: trial 1, the best of the search, is not distinguishable from it, with "
        "a difference of 66.7 F1 points [-76.8, 100.0]."
    )
    assert third.startswith("Trained again on 2 fresh seeds trial 0 scores 0.3333 [0.0000, 1.0000], 33.3 F1 points")
    board = rows("SELECT trial, score FROM hpo_leaderboard WHERE study = 'searched' AND state = 'COMPLETE'")
    assert dict(board) == pytest.approx(SCORES)


@pytest.mark.usefixtures("folder")
def test_it_is_reported_and_exported(hpo: Hpo) -> None:
    for study in ("searched", "confirmed"):
        assert hpo("report", "--study", study, "--output", f"{study}.html").code == 0
        assert Path(f"{study}.html").read_text().startswith("<!DOCTYPE html>")
        assert hpo("status", "--study", study).code == 0
    for name in ("winner.yaml", "winner.json", "train.py"):
        assert hpo("export", "--study", "searched", "--output", name).code == 0
    winner = yaml.safe_load(Path("winner.yaml").read_text())
    assert winner["hyperparameters"]["learning_rate"] == pytest.approx(0.0246, rel=0.01)


@pytest.mark.usefixtures("folder")
def test_a_search_of_it_is_confirmed(hpo: Hpo) -> None:
    answer = hpo("confirm", "study.yaml", "study=searched")
    assert answer.code == 0, answer.err
    assert "trial 1, the best of the search" in answer.out
    assert rows("SELECT count(*) FROM hpo_attempts WHERE confirms IS NOT NULL AND ending = 'completed'") == [(8,)]


@pytest.mark.usefixtures("folder")
def test_it_is_searched_on_where_trials_still_score_the_same_and_else_refused(hpo: Hpo) -> None:
    before = rows("SELECT * FROM trials")
    answer = hpo("run", "study.yaml", "study=searched", "confirmation.finalists=0", "budget.trials=6")
    if SEMANTICS == 2:
        assert answer.code == 0, answer.err
        states = rows("SELECT number, state FROM trials WHERE study_id = 1 ORDER BY number")
        assert states == [(number, "COMPLETE") for number in range(6)]
        of_the_waiting = "trial_params JOIN trials USING (trial_id) WHERE study_id = 1 AND number = 4"
        assert (0.03,) in rows(f"SELECT param_value FROM {of_the_waiting}")
    else:
        assert answer.code == 2
        assert "The study 'searched' was begun by another version of hpo" in answer.err
        assert rows("SELECT * FROM trials") == before
        refused = hpo("confirm", "study.yaml", "study=confirmed", "confirmation.runs=3")
        assert (refused.code, "would not compare" in refused.err) == (2, True)
