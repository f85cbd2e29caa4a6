"""Whole searches in the ways of the vocabulary: relative rates, folds, grids, sweep files, groups, own metrics."""

import json
import sqlite3
from pathlib import Path

import optuna
import pytest

from hpo.config.parsing import parse_yaml, write_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError
from hpo.objective import FineTuneObjective
from hpo.runners.run import run
from hpo.search.pruners import PRUNERS
from hpo.search.samplers import SAMPLERS
from tests.command_line import Hpo
from tests.whole.conftest import SPACE
from tests.whole.test_run import Recorder, with_changes

Hpo = Hpo
BASES = {"adamw": 1e-3, "momentum": 1e-1}
RELATIVE = {
    "optimizer": {"values": ["adamw", "momentum"], "default": "adamw"},
    "learning_rate": {"relative_to": BASES, "distribution": "log_uniform_values", "min": 0.5, "max": 20.0},
    "epochs": {"value": 1},
    "max_length": {"value": 16},
}
GRID = {"batch_size": {"values": [8, 16]}, "epochs": {"value": 1}, "max_length": {"value": 16}}


@pytest.fixture
def study_file(config: StudyConfig, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(write_yaml(with_changes(config, space=RELATIVE).model_dump(mode="json")))
    return path


def test_a_relative_rate_is_the_real_one_wherever_it_is_shown(hpo: Hpo, study_file: Path, tmp_path: Path) -> None:
    told = json.loads(hpo("run", study_file, "--json").out)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'hpo.db'}")
    real = {
        trial.number: trial.params["learning_rate_multiplier"] * BASES[trial.params["optimizer"]]
        for trial in study.trials
    }
    assert len(set(real.values())) == 3
    assert {trial.number: trial.user_attrs["learning_rate"] for trial in study.trials} == pytest.approx(real)
    shown = {trial["trial"]: trial["hyperparameters"]["learning_rate"] for trial in told["trials"]}
    assert shown == pytest.approx(real)
    with sqlite3.connect(tmp_path / "hpo.db") as store:
        rows = store.execute("SELECT trial, configuration FROM hpo_leaderboard").fetchall()
    assert {trial: json.loads(values)["learning_rate"] for trial, values in rows} == pytest.approx(real)
    best = parse_yaml(Path("best.yaml").read_text(), "best.yaml")
    assert best["hyperparameters"]["learning_rate"] == pytest.approx(real[best["trial"]])
    exported = tmp_path / "out.json"
    assert hpo("export", "--format", "json", "--output", exported).code == 0
    assert json.loads(exported.read_text())["hyperparameters"]["learning_rate"] == pytest.approx(real[best["trial"]])
    assert f"{real[best['trial']]:.3g}" in hpo("best").out


def test_folds_are_scored_by_their_mean_and_gone_on_with(config: StudyConfig, tmp_path: Path) -> None:
    of_folds = with_changes(
        config, evaluation={"folds": 3}, search={"pruner": "wilcoxon"}, space=GRID | {"epochs": {"values": [1, 2]}}
    )
    seen = Recorder()
    results = run(of_folds, seen)
    assert any("96 rows in 3 folds" in note for note in seen.notes), seen.notes
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'hpo.db'}")
    for trial, result in zip(study.trials, results.trials, strict=True):
        *folds, mean = [trial.intermediate_values[rung] for rung in sorted(trial.intermediate_values)]
        assert sorted(trial.intermediate_values) == [333, 667, 999, 1000]
        assert trial.value == mean == pytest.approx(sum(folds) / 3)
        assert result.validation is not None
        assert result.validation.rows == 96
    assert [look.held_out.scores.rows for look in results.test] == [24]
    again = Recorder()
    run(with_changes(of_folds, budget={"trials": 4}), again)
    assert [number for number, _ in again.assigned_trials] == [3]


def test_a_grid_ends_when_every_combination_was_tried(config: StudyConfig) -> None:
    grid = with_changes(config, space=GRID, search={"sampler": "grid"}, budget={"trials": 9})
    results = run(grid)
    assert [trial.configuration["batch_size"] for trial in results.trials] == [16, 8]
    assert [trial.proposed_by for trial in results.trials] == ["default", "grid"]
    again = Recorder()
    assert run(grid, again).trials == results.trials
    assert "Every combination of the space was tried." in again.notes


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid", "brute_force"}))
def test_every_sampler_carries_a_search(sampler: str, config: StudyConfig) -> None:
    search = {"sampler": sampler, "startup_trials": 1}
    results = run(with_changes(config, space=RELATIVE, search=search, budget={"trials": 4}))
    assert [trial.state for trial in results.trials] == ["COMPLETE"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("pruner", sorted(PRUNERS.keys() - {"wilcoxon"}))
def test_every_pruner_carries_a_search(pruner: str, config: StudyConfig) -> None:
    search = {"pruner": pruner, "lowest_score": 0.1}
    results = run(with_changes(config, search=search))
    assert {trial.state for trial in results.trials} <= {"COMPLETE", "PRUNED"}


def test_a_function_of_ones_own_is_the_objective(config: StudyConfig) -> None:
    results = run(with_changes(config, task={"metric": "sklearn.metrics:cohen_kappa_score"}))
    assert results.metric == "sklearn.metrics:cohen_kappa_score"
    assert results.best.score == pytest.approx(results.best.validation.values[results.metric])


def test_a_sweep_file_of_wandb_runs_as_it_is(hpo: Hpo, config: StudyConfig, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        write_yaml(
            {
                "program": "train.py",
                "name": "my-sweep",
                "method": "random",
                "metric": {"name": "val/macro_f1", "goal": "maximize"},
                "run_cap": 2,
                "early_terminate": {"type": "hyperband", "min_iter": 1},
                "parameters": {
                    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1},
                    "batch_size": {"values": [8, 16]},
                    "epochs": {"value": 2},
                    "max_length": {"value": 16},
                },
            }
        )
    )
    columns = ("--text-column", config.data.text_column, "--label-column", config.data.label_column)
    answer = hpo("run", sweep, "--model", config.model.name, "--train", config.data.train, *columns)
    assert answer.code == 0, answer.err
    assert "program" in answer.out
    best = parse_yaml(Path("best.yaml").read_text(), "best.yaml")
    assert (best["study"], best["metric"]) == ("my-sweep", "macro_f1")
    assert "2 trials" in answer.out


def test_a_bare_optuna_study_may_have_folds(config: StudyConfig) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    study.optimize(FineTuneObjective(with_changes(config, space=SPACE, evaluation={"folds": 2})), n_trials=1)
    values = study.trials[0].intermediate_values
    assert study.best_value == values[1000] == pytest.approx((values[500] + values[999]) / 2)


@pytest.mark.parametrize("pruner", [optuna.pruners.MedianPruner(), optuna.pruners.HyperbandPruner()])
def test_a_bare_study_whose_pruner_judges_curves_is_refused_folds(config: StudyConfig, pruner) -> None:
    study = optuna.create_study(direction="maximize", pruner=pruner)
    objective = FineTuneObjective(with_changes(config, evaluation={"folds": 2}))
    with pytest.raises(ConfigurationError, match=rf"{type(pruner).__name__} judges learning curves; give create_study"):
        study.optimize(objective, n_trials=1)


def test_a_bare_study_that_minimises_is_refused(config: StudyConfig) -> None:
    with pytest.raises(ConfigurationError, match="the Optuna study minimises; create it with"):
        optuna.create_study().optimize(FineTuneObjective(config), n_trials=1)
