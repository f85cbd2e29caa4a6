"""Whole searches on one GPU that two workers share: one is killed, one breaks CUDA, two are halves under Ray."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpo.store.database import open_database
from hpo.store.results import StudyResults, read_results
from tests.models import save_tiny_bert, write_texts

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(150)]

PATIENCE = 120.0
TRIALS = 14
"""So many that the second worker opens while the first trains."""
IN_TRAINING = """
    SELECT DISTINCT worker FROM hpo_attempts JOIN hpo_evaluations USING (study_id, trial, attempt) WHERE ending IS NULL
"""
BREAKING = '''
from pathlib import Path

import torch


def accuracy(true, predicted):
    """Where it finds the file `go`, once, let every later call to the GPU of its process fail."""
    try:
        Path("go").rename("gone")
    except FileNotFoundError:
        return float((true == predicted).mean())
    torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")]
    torch.cuda.synchronize()
'''


class Search:
    """A search in a process of its own."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        save_tiny_bert(folder / "model")
        write_texts(folder / "texts.csv", rows=2000)
        values: dict[str, Any] = {
            "study": "shared",
            "model": {"name": "model"},
            "data": {"train": "texts.csv"},
            "space": {
                "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1, "default": 1e-2},
                "epochs": {"value": 2}, "max_length": {"value": 16}, "batch_size": {"value": 8},
            },
            "search": {"sampler": "random", "pruner": "none"},
            "evaluation": {"rung_rows": 60, "rungs": 4},
            "compute": {"device": "cuda", "precision": "fp32", "threads": 1, "gpus_per_trial": 0.5},
            "budget": {"trials": TRIALS},
            "confirmation": {"finalists": 0, "audit": 0},
            "store": {"url": "sqlite:///hpo.db"},
        }  # fmt: skip
        for name, section in sections.items():
            values[name] = values.get(name, {}) | section
        (folder / "study.json").write_text(json.dumps(values))
        self.folder, self.log = folder, folder / "search.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hpo", "run", "study.json"],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def wait_for(self, sql: str, enough: int) -> None:
        """Wait until a query of the store finds so many rows."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with sqlite3.connect(f"file:{self.folder / 'hpo.db'}?mode=ro", uri=True) as store:
                    if len(store.execute(sql).fetchall()) >= enough:
                        return
            except sqlite3.OperationalError:
                pass  # It is not there yet.
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def workers(self) -> list[psutil.Process]:
        return [one for one in psutil.Process(self.process.pid).children() if "worker_process" in str(one.cmdline())]

    def ended(self) -> StudyResults:
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        database = open_database(f"sqlite:///{self.folder / 'hpo.db'}")
        try:
            return read_results(database, "shared")
        finally:
            database.close()

    def endings(self) -> dict[str, int]:
        with sqlite3.connect(self.folder / "hpo.db") as store:
            return dict(store.execute("SELECT ending, count(*) FROM hpo_attempts GROUP BY ending").fetchall())


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[list[Search]]:
    """Searches of a test, of which none is left."""
    made: list[Search] = []
    yield made
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_a_worker_that_is_killed_takes_nothing_from_its_neighbour(tmp_path: Path, begun: list[Search]) -> None:
    search = Search(tmp_path)
    begun.append(search)
    search.wait_for(IN_TRAINING, 2)
    workers = search.workers()
    assert len(workers) == 2
    workers[0].kill()
    results = search.ended()
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * TRIALS
    endings = search.endings()
    # What it was to train next waits, and was not begun.
    assert endings.pop("completed") == TRIALS
    assert endings in ({"died": 1}, {"died": 1, "paused": 1}, {"paused": 1}, {})


def test_a_worker_whose_cuda_is_broken_is_replaced_and_its_trial_tried_again(
    tmp_path: Path, begun: list[Search]
) -> None:
    (tmp_path / "breaking.py").write_text(BREAKING)
    search = Search(tmp_path, task={"metric": "breaking:accuracy"})
    begun.append(search)
    search.wait_for(IN_TRAINING, 1)
    (tmp_path / "go").touch()
    results = search.ended()
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * TRIALS
    endings = search.endings()
    # What it was to train next waits, and was not begun.
    endings.pop("paused", None)
    assert endings == {"completed": TRIALS, "failed": 1}
    assert "is not to be trusted" in search.log.read_text()


def test_a_measurement_puts_several_trials_of_a_tiny_model_on_a_gpu(tmp_path: Path, begun: list[Search]) -> None:
    search = Search(tmp_path, compute={"workers": "auto", "gpus_per_trial": None})
    begun.append(search)
    search.wait_for(IN_TRAINING, 2)
    results = search.ended()
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * TRIALS
    assert re.search(r"Each GPU trains \d+ trials side by side: one keeps it busy for \d+% of", search.log.read_text())


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'llm-hpo[ray]'")
def test_two_halves_of_a_gpu_are_two_workers_under_ray(tmp_path: Path, begun: list[Search]) -> None:
    search = Search(tmp_path, compute={"runner": "ray_tune"})
    begun.append(search)
    search.wait_for(IN_TRAINING, 2)
    results = search.ended()
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * TRIALS
    assert search.endings() == {"completed": TRIALS}
