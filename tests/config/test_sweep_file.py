"""W&B sweep files: what hpo makes of them, and every one that it would not run as W&B does is refused in a sentence."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.config.loading import load_config, load_study
from hpo.config.parsing import parse_yaml, write_yaml
from hpo.config.study_file import StudyConfig
from hpo.errors import ConfigurationError
from hpo.search.pruners import build_pruner
from hpo.space.space_file import read_space, space_of

MATERIAL: dict[str, Any] = {"model": {"name": "m"}, "data": {"train": "t.csv"}}
PARAMETERS: dict[str, Any] = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-4},
    "batch_size": {"values": [8, 16, 32]},
}
MINIMAL: dict[str, Any] = {"method": "random", "parameters": PARAMETERS}

BAYES = """
program: train.py
project: sentiment
entity: my-team
description: the second night
name: "BERT: night #2"
method: bayes
metric: {name: eval/macro_f1, goal: maximize}
early_terminate: {type: hyperband, min_iter: 2, eta: 2}
run_cap: 60
command: ["${env}", python, "${program}", "${args}"]
parameters:
  learning_rate: {distribution: log_uniform_values, min: 1e-6, max: 1e-4}
  batch_size: {values: [8, 16, 32]}
  epochs: {min: 2, max: 8}
  l2_strength: {min: 0.0, max: 0.1}
  dropout: {distribution: q_uniform, min: 0.0, max: 0.3, q: 0.1}
  optimizer: {value: adamw}
"""
GRID = """
method: grid
metric: {name: val_loss, goal: minimize}
parameters:
  learning_rate: {values: [1e-5, 3e-5, 1e-4]}
  epochs: {values: [2, 3, 4]}
  optimizer: {values: [adamw, adam, sgd]}
"""


def sweep_file(folder: Path, content: str | dict[str, Any]) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(content if isinstance(content, str) else write_yaml(content))
    return path


def read(folder: Path, content: str | dict[str, Any]) -> StudyConfig:
    return load_config(sweep_file(folder, content), MATERIAL)


def notes(path: Path, material: dict[str, Any] = MATERIAL) -> tuple[str, ...]:
    return load_study(path, material)[1]


def test_a_bayesian_sweep_with_hyperband(tmp_path: Path) -> None:
    study = read(tmp_path, BAYES)
    assert study.study == "BERT- night -2"
    assert (study.search.sampler, study.pruner, study.search.reduction_factor) == ("tpe", "successive_halving", 2)
    assert (study.task.metric, study.budget.trials) == ("macro_f1", 60)
    # After two of eight scores.
    assert study.evaluation.first_rung == 250
    assert study.space == parse_yaml(BAYES, "the sweep")["parameters"]
    space = space_of(study.space)
    assert space.hyperparameters(space.default_values()).optimizer == "adamw"


def test_hyperband_begins_to_cut_every_run_where_wandb_does(tmp_path: Path) -> None:
    """W&B has one series of cuts for all runs; of Optuna's Hyperband many a run belongs to a later bracket."""
    parameters = PARAMETERS | {"epochs": {"value": 9}}
    early = {"type": "hyperband", "min_iter": 1}
    study = read(tmp_path, MINIMAL | {"early_terminate": early, "parameters": parameters})
    search = optuna.create_study(direction="maximize", pruner=build_pruner(study))
    ended = []
    for run in range(12):
        # Each worse than all before it: never among the better third, as W&B counts too.
        trial, score = search.ask(), 0.9 - run / 100
        for epoch in range(1, 9):
            trial.report(score, round(1000 * epoch / 9))
            if trial.should_prune():
                break
        ended.append(epoch)
        search.tell(trial, score)
    assert ended == [8, *[1] * 11]


LORA = """
method: random
metric: {name: eval/f1, goal: maximize}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.00002, max: 0.003}
  lora_r: {values: [8, 16]}
  lora-alpha: {values: [16, 32]}
  lora_dropout: {values: [0.0, 0.1]}
  target_modules: {value: all-linear}
"""


def test_a_sweep_over_lora_is_read_whole(tmp_path: Path) -> None:
    space = space_of(read(tmp_path, LORA).space, "sweep")
    assert {one.name: one.domain.spec() for one in space.parameters} == {
        "learning_rate": {"distribution": "log_uniform_values", "min": 2e-5, "max": 3e-3},
        "lora_rank": {"values": [8, 16]},
        "lora_alpha": {"values": [16.0, 32.0]},
        "lora_dropout": {"values": [0.0, 0.1]},
        "lora_targets": {"value": "all-linear"},
        "method": {"value": "lora"},
    }
    assert space.notes == (
        "lora_r is taken for lora_rank.",
        "lora-alpha is taken for lora_alpha.",
        "target_modules is taken for lora_targets.",
        "lora_r, lora-alpha, lora_dropout and target_modules are of LoRA, so method is lora.",
    )


def test_a_grid_is_tried_whole_and_nothing_twice(tmp_path: Path) -> None:
    study = read(tmp_path, GRID)
    assert study.study == "sweep"
    assert study.search.sampler == "grid"
    assert study.budget.trials == 27
    assert study.task.metric == "neg_log_loss"
    assert read(tmp_path, GRID + "run_cap: 5\n").budget.trials == 5


def test_a_metric_that_says_nothing_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'metric' must be keys and values, but is None"):
        read(tmp_path, "method: random\nmetric:\nparameters:\n  learning_rate: {min: 0.00001, max: 0.0001}\n")


def test_a_random_sweep_that_ends_no_run_early(tmp_path: Path) -> None:
    study = read(tmp_path, MINIMAL)
    assert (study.search.sampler, study.pruner, study.task.metric) == ("random", "none", "auto")
    assert study.budget.trials == load_config(values=MATERIAL | {"study": "s"}).budget.trials


def test_values_and_overrides_go_over_a_sweep(tmp_path: Path) -> None:
    values = MATERIAL | {"study": "mine", "budget": {"trials": 3}}
    overrides = ["space.learning_rate.max=1e-3", "search.pruner=median"]
    study = load_config(sweep_file(tmp_path, BAYES), values, overrides)
    assert (study.study, study.budget.trials, study.pruner) == ("mine", 3, "median")
    assert study.space["learning_rate"]["max"] == 1e-3  # type: ignore[index]


def test_a_sweep_needs_a_model_and_texts(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, MINIMAL)
    for values in ({}, {"model": {"name": "m"}}):
        with pytest.raises(ConfigurationError) as error:
            load_config(path, values)
        assert str(error.value) == (
            f"{path}: a W&B sweep says neither the model nor the texts; add --model PATH_OR_HUB_ID and --train FILE."
        )
    assert load_config(path, overrides=["model.name=m", "data.train=t.csv"]).model.name == "m"


def test_what_a_sweep_leaves_unused_is_told(tmp_path: Path) -> None:
    assert notes(sweep_file(tmp_path, BAYES)) == (
        "The sweep's program and command are not used: hpo itself trains.",
        "The metric eval/macro_f1 is taken for macro_f1.",
    )
    assert notes(sweep_file(tmp_path, MINIMAL)) == ()
    metric = {"name": "f1", "goal": "maximize", "target": 0.9, "impute": "worst", "impute_while_running": "latest"}
    assert notes(sweep_file(tmp_path, MINIMAL | {"program": "train.py", "metric": metric})) == (
        "The sweep's program is not used: hpo itself trains.",
        "The sweep's metric.target is not used: the search goes on to the end of its budget.",
        "The sweep's metric.impute is not used: a failed trial has no score here.",
        "The sweep's metric.impute_while_running is not used: a running trial has no score here but its own.",
        "The metric f1 is taken for auto (F1 of two classes, macro F1 of more; named once the labels are read).",
    )


def test_a_study_file_is_no_sweep_and_has_no_such_notes(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, MATERIAL | {"study": "s"})
    assert load_config(path).study == "s"
    assert notes(path, {}) == ()
    with pytest.raises(ConfigurationError, match="unknown key 'parameters'"):
        load_config(sweep_file(tmp_path, MATERIAL | {"study": "s", "parameters": PARAMETERS}))


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"name": "macro_f1", "goal": "maximize"}, "macro_f1"),
        ({"name": "val/f1", "goal": "maximize"}, "auto"),
        ({"name": "valid_accuracy", "goal": "maximize"}, "accuracy"),
        ({"name": "validation.f1", "goal": "maximize"}, "auto"),
        ({"name": "eval_f1", "goal": "maximize"}, "auto"),
        ({"name": "evaluation/f1", "goal": "maximize"}, "auto"),
        ({"name": "train/f1", "goal": "maximize"}, "train/f1"),  # Refused by the task, which has no such metric.
        ({"name": "loss", "goal": "minimize"}, "neg_log_loss"),
        ({"name": "eval/loss"}, "neg_log_loss"),
        ({"name": "val_log_loss"}, "neg_log_loss"),
        ({"name": "cross_entropy"}, "neg_log_loss"),
    ],
)
def test_a_metric_is_found_by_its_name(tmp_path: Path, metric: dict[str, Any], expected: str) -> None:
    assert read(tmp_path, MINIMAL | {"metric": metric}).task.metric == expected


@pytest.mark.parametrize(
    ("early", "epochs", "eta", "first_rung"),
    [
        ({"min_iter": 1}, 3, 3, 333),
        ({"min_iter": 3}, 3, 3, 1000),
        ({"min_iter": 9}, 3, 3, 1000),
        ({"min_iter": 1}, 5000, 3, 1),
        ({"max_iter": 27, "s": 2}, 27, 3, 111),
        ({"max_iter": 16, "s": 3, "eta": 2.0}, 20, 2, 100),
        ({"max_iter": 4, "s": 100}, 10, 3, 100),
        # Of 7 scores the fourth is at 571 per mille, where 4 times 143 would not be reached.
        ({"min_iter": 1, "eta": 2}, 7, 2, 142),
        ({"max_iter": 10, "s": 1}, 10, 3, 300),
        ({"max_iter": 243, "s": 5}, 10, 3, 100),
    ],
)
def test_the_first_cut_is_that_of_wandb(
    tmp_path: Path, early: dict[str, Any], epochs: int, eta: int, first_rung: int
) -> None:
    parameters = PARAMETERS | {"epochs": {"value": epochs}}
    sweep = {"method": "bayes", "early_terminate": {"type": "hyperband"} | early, "parameters": parameters}
    study = read(tmp_path, sweep)
    assert (study.search.reduction_factor, study.evaluation.first_rung) == (eta, first_rung)


@pytest.mark.parametrize(
    ("name", "study"),
    [
        ("night 2", "night 2"),
        ("Größe/Länge", "Größe-Länge"),
        ("../up", "up"),
        ("  ", "sweep"),
        (None, "sweep"),
        ("n" * 200, "n" * 128),
        (3, "3"),
    ],
)
def test_a_name_becomes_one_of_a_study(tmp_path: Path, name: object, study: str) -> None:
    assert read(tmp_path, MINIMAL | {"name": name}).study == study


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no method": (
        {"method": None},
        "has parameters but no `method: bayes | random | grid`, as a W&B sweep has; a file of parameters alone is a "
        "search space, given as `--space ",
    ),
    "another method": ({"method": "custom"}, ": method 'custom' is not for hpo. Known: bayes, grid, random."),
    "an unknown key": ({"run_capp": 3}, ": unknown key 'run_capp' of a W&B sweep. Did you mean 'run_cap'?"),
    "controller": ({"controller": {"type": "local"}}, ": 'controller' is not for hpo, since hpo itself proposes the"),
    "scheduler": ({"scheduler": {"engine": "optuna"}}, ": 'scheduler' is not for hpo, since `method` alone says"),
    "job": ({"job": "me/job:v1"}, ": 'job' is not for hpo, since hpo itself trains; take it out."),
    "image_uri": ({"image_uri": "x"}, ": 'image_uri' is not for hpo, since hpo itself trains; take it out."),
    "imageUri": ({"imageUri": "x"}, ": 'imageUri' is not for hpo, since hpo itself trains; take it out."),
    "prefix": ({"prefix": "x"}, ": 'prefix' is not for hpo, since parameters are called by their own names; take it"),
    "metrics": ({"metrics": []}, ": 'metrics' is not for hpo, since a study has one metric, named under `metric`"),
    "parameters that are none": ({"parameters": ["lr"]}, ": 'parameters' must be keys and values, but is ['lr']."),
    "a run_cap that is none": ({"run_cap": 0}, ": 'budget.trials' is 0, but it should be greater than or equal to 1."),
    "a metric without keys": ({"metric": "f1"}, ": 'metric' must be keys and values, but is 'f1'."),
    "a metric without a name": ({"metric": {"goal": "maximize"}}, ": metric needs a `name:`, such as macro_f1."),
    "an unknown key of metric": ({"metric": {"name": "f1", "gaol": "x"}}, ": unknown key 'gaol' of metric. Did you"),
    "an unknown goal": (
        {"metric": {"name": "f1", "goal": "max"}},
        ": metric.goal cannot be 'max'. Known: maximize, minimize.",
    ),
    "a score to minimise": (
        {"metric": {"name": "val/error", "goal": "minimize"}},
        ": metric 'val/error' is to be minimised, but hpo maximises, and minimises losses "
        "alone; write `goal: maximize`, or name another metric, by task.metric=NAME on the command line too.",
    ),
    "a score without a goal": (
        {"metric": {"name": "f1"}},
        ": metric 'f1' is to be minimised, which is W&B's usual goal, but hpo maximises",
    ),
    "another early stopping": (
        {"early_terminate": {"type": "envelope"}},
        ": early_terminate.type must be hyperband, but is 'envelope'.",
    ),
    "strict": (
        {"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": True}},
        ": early_terminate has 'strict', which hpo does not do; take it out. Known: eta, max_iter,",
    ),
    "no first cut": (
        {"early_terminate": {"type": "hyperband"}},
        ": early_terminate needs min_iter, or max_iter and s, but has none of them; keep to one way.",
    ),
    "half a first cut": (
        {"early_terminate": {"type": "hyperband", "max_iter": 9}},
        ": early_terminate needs min_iter, or max_iter and s, but has max_iter; keep to one way.",
    ),
    "two first cuts": (
        {"early_terminate": {"type": "hyperband", "max_iter": 9, "min_iter": 1, "s": 2}},
        ": early_terminate needs min_iter, or max_iter and s, but has max_iter and min_iter and s; keep to one way.",
    ),
    "eta of no rungs": (
        {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1.5}},
        ": early_terminate.eta must be a whole number of at least 2, but is 1.5.",
    ),
    "a first cut before any score": (
        {"early_terminate": {"type": "hyperband", "min_iter": 0}},
        ": early_terminate.min_iter must be a whole number of at least 1, but is 0.",
    ),
    "a truth for a number": (
        {"early_terminate": {"type": "hyperband", "max_iter": 9, "s": True}},
        ": early_terminate.s must be a whole number of at least 1, but is True.",
    ),
    "a parameter of no name": ({"parameters": {"lrx": {"value": 1}}}, ", lrx: unknown hyperparameter 'lrx'."),
    "nested parameters": (
        {"parameters": {"learning_rate": {"parameters": {"value": 1}}}},
        ", learning_rate has parameters, but hyperparameters are not nested here; write those in it one level up.",
    ),
    "probabilities": (
        {"parameters": {"epochs": {"values": [1, 2], "probabilities": [0.9, 0.1]}}},
        ", epochs has probabilities, but every value is as likely as the others here; leave it out.",
    ),
    "another distribution": (
        {"parameters": {"learning_rate": {"distribution": "log_normal", "mu": -9, "sigma": 1}}},
        ", learning_rate has W&B's distribution log_normal, which has no smallest and no largest value; write `min:` "
        "and `max:`, or the `values:`.",
    ),
    "a grid without end": (
        {"method": "grid"},
        ", learning_rate takes any number of a range, so the combinations of this space cannot be counted; list its",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_hpo_would_do_otherwise_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    changes, said = REFUSED[case]
    content = {key: value for key, value in (MINIMAL | changes).items() if value is not None}
    with pytest.raises(ConfigurationError) as error:
        read(tmp_path, content)
    assert said in str(error.value)
    assert str(tmp_path / "sweep.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sweep_named_as_a_space_says_how_to_run_it(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, GRID)
    with pytest.raises(ConfigurationError) as error:
        read_space(str(path))
    assert str(error.value) == (
        f"{path}: a space holds parameters only; take 'method' out, it belongs under `search: {{sampler: ...}}` of the "
        "study file; take 'metric' out, it belongs under `task: {metric: ...}` of the study file. Or run the "
        f"sweep itself: hpo run {path} --model PATH_OR_HUB_ID --train FILE."
    )
