"""Simulated searches: the real coordinator and dispatch over curves, by hand and by the command line."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hpo.cli.simulate import curves_app
from hpo.cli.simulate import simulate as simulate_verb
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError, HpoError, TrainingError
from hpo.messages import Assignment, Ending
from hpo.runners.replay.curves import Curve, Point
from hpo.runners.replay.generated_curves import GeneratedCurves
from hpo.runners.replay.simulated_search import (
    Setting,
    SettingResult,
    SimulatedSearch,
    compare,
    recommendation,
    settings_of,
    simulate,
)
from hpo.runners.replay.worker_pool import SIMULATION_START
from tests.search.scripted import led, search, study_at

SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-3, "default": 3e-5},
    "epochs": {"value": 2},
}


def study_of(**changes: Any) -> StudyConfig:
    return study_at("sqlite:///unused.db", space=SPACE, **changes)


class Fixed:
    """Trial n takes the n-th of some seconds, and scores what `score` says of it at each rung."""

    def __init__(self, *seconds: float, score: Callable[[int, int], float] = lambda trial, rung: rung / 1000) -> None:
        self._seconds, self._score = seconds, score

    def curve(self, assignment: Assignment) -> Curve:
        trial, whole = assignment.trial, self._seconds[assignment.trial]
        points = tuple(
            Point(rung=m.rung, score=self._score(trial, m.rung), seconds=whole * m.rung / 1000)
            for m in assignment.milestones
        )
        return Curve(
            hyperparameters=assignment.hyperparameters,
            length=1000,
            points=points,
            ending=Ending.COMPLETED,
            seconds=whole,
        )

    def true_score(self, assignment: Assignment) -> float:
        return assignment.trial / 10


# -- one search


def test_the_trial_that_scores_highest_is_told_completed_or_unfinished() -> None:
    found = simulate(
        study_of(budget={"trials": 2}, compute={"workers": 2}),
        Fixed(40.0, 80.0, score=lambda trial, rung: (0.5 if trial == 0 else 0.9) * rung / 1000),
    )
    told = [(one.found_at, one.score, one.true_score) for one in found.incumbents]
    first = [(10, 0.125, 0.0), (20, 0.25, 0.0), (30, 0.375, 0.0), (40, 0.5, 0.0)]
    assert told == [*first, (60, pytest.approx(0.675), 0.1), (80, 0.9, 0.1)]
    assert [one.found_at for one in found.winners] == [40, 80]


def test_three_workers_take_as_long_as_counting_by_hand_says() -> None:
    found = simulate(
        study_of(budget={"trials": 5}, compute={"workers": 3}),
        Fixed(50.0, 20.0, 30.0, 40.0, 10.0, score=lambda trial, rung: rung / 2000 + (trial == 3) / 10),
    )
    assert (found.best_score, found.true_score, found.begun, found.completed, found.pruned) == (0.6, 0.3, 5, 5, 0)
    assert (found.seconds, found.found_at, found.given_seconds) == (60.0, 60.0, None)
    assert found.busy_share == pytest.approx(150 / 180)


def test_nothing_is_begun_that_would_end_after_the_deadline() -> None:
    found = simulate(study_of(budget={"trials": 9, "time": "250s"}), Fixed(*[100.0] * 9))
    assert (found.completed, found.begun, found.seconds, found.given_seconds) == (2, 2, 200.0, 250.0)


def test_a_trial_is_given_up_at_the_moment_of_the_rung_at_which_it_is_too_bad() -> None:
    config = study_of(budget={"trials": 3}, search={"pruner": "threshold", "lowest_score": 0.5})
    found = simulate(config, Fixed(*[100.0] * 3, score=lambda trial, rung: 0.1))
    # The default is never given up; the others are at 250 per mille.
    assert (found.completed, found.pruned, found.seconds) == (1, 2, 100.0 + 25.0 + 25.0)


def test_the_same_search_comes_to_the_same() -> None:
    config = study_of(
        budget={"trials": None, "time": "3h"}, compute={"workers": 2}, search={"sampler": "tpe", "pruner": "median"}
    )
    one, again, other = (simulate(config, GeneratedCurves(seed)) for seed in (1, 1, 2))
    assert one == again != other
    assert one.seconds <= 3 * 3600
    assert one.completed + one.pruned == one.begun > 8
    assert one.pruned > 0
    assert one.busy_share > 0.5


def test_a_time_is_too_short_where_neither_end_of_the_space_fits_as_in_a_run() -> None:
    # The truth of a seed may make what should be dear the quicker.
    class Quick(Fixed):
        def curve(self, assignment: Assignment) -> Curve:
            whole = 20.0 if assignment.hyperparameters.batch_size == 32 else 100.0
            return replace(super().curve(assignment), seconds=whole, points=())

    space = SPACE | {"batch_size": {"values": [16, 32], "default": 16}}
    config = study_at("sqlite:///unused.db", space=space, budget={"trials": 4, "time": "50s"})
    assert simulate(config, Quick(*[100.0] * 9)).given_seconds == 50.0


def test_in_a_time_too_short_for_any_trial_the_first_begins_all_the_same() -> None:
    found = simulate(study_of(budget={"time": "30s"}), Fixed(*[100.0] * 9))
    assert (found.begun, found.completed, found.best_score) == (1, 0, None)


# -- several


def test_every_combination_is_a_setting() -> None:
    assert settings_of(["search.pruner=median, none", "compute.workers=1,4"]) == [
        ("search.pruner=median", "compute.workers=1"),
        ("search.pruner=median", "compute.workers=4"),
        ("search.pruner=none", "compute.workers=1"),
        ("search.pruner=none", "compute.workers=4"),
    ]


@pytest.mark.parametrize("vary", [["search.pruner"], ["search.pruner="], ["=none"], ["a.b=1,,2"], ["a.b=1", "a.b=2"]])
def test_what_varies_must_be_a_path_and_its_values(vary: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("--vary takes a dotted path and its values")):
        settings_of(vary)


def search_of(true_score: float | None) -> SimulatedSearch:
    return SimulatedSearch(
        best_score=true_score, true_score=true_score, found_at=true_score and 1.0, begun=3, completed=2, pruned=1,
        busy_share=1.0, seconds=10.0, given_seconds=None,
    )  # fmt: skip


def compared(name: str, *true_scores: float | None) -> SettingResult:
    return SettingResult(setting=(f"search.pruner={name}",), searches=tuple(map(search_of, true_scores)))


def test_settings_are_compared_search_by_search() -> None:
    # Differences of 0.02 and 0.04: 0.03, with a standard error of 0.0141 / sqrt 2 = 0.01.
    sure = recommendation([compared("none", 0.5, 0.7), compared("median", 0.52, 0.74)])
    assert sure == (
        "Choose search.pruner=median: true score 0.6300, 0.0300 ± 0.0100 above search.pruner=none, which is beyond the "
        "noise."
    )
    unsure = recommendation([compared("none", 0.5, 0.7), compared("median", 0.49, 0.74)])
    assert "0.0150 ± 0.0250 above search.pruner=none, which is within the noise" in unsure


def test_a_setting_that_finds_nothing_in_some_searches_is_not_chosen() -> None:
    said = recommendation([compared("none", 0.9, None), compared("median", 0.5, 0.6)])
    assert said.startswith("Choose search.pruner=median: true score 0.5500, the only one with a winner")
    assert recommendation([compared("none", None)]).startswith("No search completed a trial")


def test_a_single_search_is_within_the_noise() -> None:
    said = recommendation([compared("none", 0.5), compared("median", 0.9)])
    assert "0.4000 above search.pruner=none, which is within the noise" in said


def compared_in(configs: dict[Setting, StudyConfig], source_of: Callable[[int], Any], jobs: int) -> list[SettingResult]:
    return compare(configs, source_of, searches=2, jobs=jobs, starts_at=SIMULATION_START, on_done=lambda *_: None)


@pytest.mark.slow
def test_searches_side_by_side_are_those_one_after_the_other() -> None:
    configs: dict[Setting, StudyConfig] = {(): study_of(budget={"trials": 3})}
    both = [compared_in(configs, GeneratedCurves, jobs=jobs) for jobs in (1, 2)]
    assert both[0] == both[1]
    assert both[0][0].searches[0] != both[0][0].searches[1]


def killed(_seed: int) -> GeneratedCurves:
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_in_a_sentence() -> None:
    with pytest.raises(TrainingError, match=r"was killed, .*give --jobs a smaller number\."):
        compared_in({(): study_of(budget={"trials": 3})}, killed, jobs=2)


# -- the commands

app = typer.Typer()
app.command("simulate")(simulate_verb)
app.add_typer(curves_app, name="curves")
commanded = partial(CliRunner().invoke, app)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study whose model and texts are not there."""
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: night\nmodel: {name: no-such-model}\ndata: {train: no-such-file.csv}\nspace: quickstart\n"
        "evaluation: {rungs: 4, first_rung: 250}\nbudget: {trials: 4}\n"
    )
    return path


@pytest.mark.slow
def test_pruners_are_compared_over_generated_curves(study_file: Path) -> None:
    answer = commanded(["simulate", str(study_file), "--curves", "generated", "--nights", "2", "--jobs", "1"])
    assert answer.exception is None
    for pruner in ("median", "successive_halving", "hyperband", "none"):
        assert f"search.pruner={pruner}" in answer.stdout
    assert "true score" in answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("Choose search.pruner=")


def test_a_store_s_curves_are_exported_and_simulated_over(study_file: Path, tmp_path: Path) -> None:
    url, curves = f"sqlite:///{tmp_path / 'hpo.db'}", tmp_path / "curves.jsonl"
    with led(study_at(url)) as coordinator:
        search(coordinator)
    wrote = commanded(["curves", "export", "--store", url, "--study", "scripted", "--output", str(curves)])
    assert wrote.stderr == f"Wrote 4 curves of study scripted to {curves}.\n"
    words = ["simulate", str(study_file), "budget.trials=2", "--curves", str(curves), "--vary", "compute.workers=1,2"]
    answer = commanded([*words, "--nights", "1", "--jobs", "1", "--json"])
    assert answer.exception is None
    content = json.loads(answer.stdout)
    assert [one["setting"] for one in content["settings"]] == [["compute.workers=1"], ["compute.workers=2"]]
    assert all(night["begun"] == 2 for one in content["settings"] for night in one["nights"])
    assert content["verdict"].startswith("Choose compute.workers=")
    assert (
        "The curves do not depend on head_rate, head_scale, batch_size, schedule, warmup_ratio, l2_strength"
        in answer.stderr
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--curves", "no-such.jsonl"], "Cannot read no-such.jsonl"),
        (["--curves", "generated", "--vary", "search.pruner=mean"], "'search.pruner' cannot be 'mean'"),
        (["--curves", "generated", "second.yaml"], "takes one study file"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_sentence(study_file: Path, words: list[str], says: str) -> None:
    answer = commanded(["simulate", str(study_file), *words])
    assert isinstance(answer.exception, HpoError)
    assert says in str(answer.exception)


@pytest.mark.slow
def test_with_folds_the_pruners_of_folds_are_compared(study_file: Path) -> None:
    words = ["simulate", str(study_file), "--curves", "generated", "evaluation.folds=3", "budget.trials=2"]
    answer = commanded([*words, "--nights", "1", "--jobs", "1", "--json"])
    assert answer.exception is None
    settings = [one["setting"] for one in json.loads(answer.stdout)["settings"]]
    assert settings == [["search.pruner=wilcoxon"], ["search.pruner=none"]]
