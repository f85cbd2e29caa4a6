"""Files and commands as people bring them: what runs as it is, and what one answer says of all that is wrong."""

from pathlib import Path
from typing import Any

import pytest

from hpo.config.parsing import write_yaml
from tests.command_line import Hpo

COLUMNS = ("--text-column", "was gesagt wurde", "--label-column", "worüber")
SHORT: dict[str, Any] = {"max_seq_len": {"value": 16}, "num_epochs": {"value": 1}}


@pytest.fixture
def material(model_folder: Path, texts_file: Path) -> tuple[object, ...]:
    return ("--model", model_folder, "--train", texts_file, *COLUMNS)


def written(name: str, content: dict[str, Any]) -> Path:
    path = Path(name)
    path.write_text(write_yaml(content))
    return path


def test_a_sweep_of_a_script_of_transformers_runs_as_it_is(hpo: Hpo, material: tuple[object, ...]) -> None:
    content = {
        "program": "run_it.py",
        "method": "random",
        "metric": {"name": "best_eval/f1_macro", "goal": "maximize"},
        "parameters": SHORT
        | {
            "args.lr": {"distribution": "loguniform", "low": 1e-3, "high": 1e-1},
            "args.train-batch-size": [8],
            "optim": {"values": ["adamw_torch_fused", "sgd"]},
            "logging_dir": {"value": "x"},
            "model_name": {"value": "y"},
        },
    }
    told = ("confirmation.finalists=0", "compute.device=cpu", "compute.precision=fp32")
    answer = hpo("run", written("sweep.yaml", content), *material, "--trials", 1, *told)
    assert answer.code == 0, answer.err
    for said in (
        "The metric best_eval/f1_macro is taken for macro_f1.",
        "args.lr is taken for learning_rate.",
        "args.train-batch-size is taken for batch_size.",
        "optimizer adamw_torch_fused is taken for adamw.",
        "Left out, as it belongs to the script or is set elsewhere here: logging_dir. The model and the texts are "
        "those of --model and --train, not of model_name.",
    ):
        assert answer.out.count(said) == 1, said


def test_steps_are_refused_once_with_their_share_and_all_else_is_said(hpo: Hpo, material: tuple[object, ...]) -> None:
    content = {
        "method": "bayes",
        "metric": {"name": "val_loss", "goal": "minimize"},
        "early_terminate": {"type": "hyperband", "min_iter": 100},
        "parameters": SHORT
        | {"lr": {"min": 1e-3, "max": 0.1}, "num_warmup_steps": {"values": [2, 90]}, "bs": {"values": [4, 8]}}
        | {"grad_accum": {"value": 2}},
    }
    answer = hpo("run", written("sweep.yaml", content), *material)
    assert answer.code == 2
    for said in (
        "The metric val_loss is taken for neg_log_loss.",
        "early_terminate ends no trial early: hpo scores a trial after each epoch, of which it has at most 1, ",
        "grad_accum times bs is taken for batch_size, the examples of one optimizer step: 8, 16.",
    ):
        assert said in answer.out
    assert answer.err.count("num_warmup_steps counts optimizer steps") == 1
    assert "at batch_size 8 and epochs 1" in answer.err
    assert "at batch_size 16 and epochs 1" in answer.err
    assert list(Path().glob("*.log")) == []


def test_a_metric_on_the_command_line_takes_the_place_of_the_sweeps(hpo: Hpo, material: tuple[object, ...]) -> None:
    content = {"method": "random", "metric": {"name": "val/error", "goal": "minimize"}, "parameters": SHORT}
    sweep = written("sweep.yaml", content)
    assert "task.metric=NAME" in hpo("run", sweep, *material).err
    answer = hpo("run", sweep, *material, "task.metric=makro_f1")
    assert "Did you mean 'macro_f1'?" in answer.err


def test_all_mistakes_of_a_study_file_are_told_at_once(hpo: Hpo) -> None:
    content = {"study": "s", "modl": {"name": "m"}, "data": {"tarin": "t.csv"}, "compute": {"divice": "cpu"}}
    answer = hpo("run", written("study.yaml", content), "trials=5", "space.epochs.max=x", "bugdet.time=1h")
    assert answer.code == 2
    assert "mistakes" in answer.err.splitlines()[0]
    for key in ("'model'", "'data.train'", "'compute.device'", "'budget.trials'", "'budget'"):
        assert f"Did you mean {key}?" in answer.err
    assert "is missing" not in answer.err


def test_missing_flags_and_misspelt_overrides_are_told_at_once(hpo: Hpo) -> None:
    answer = hpo("run", "budget.trails=3", "search.samplr=tpe")
    assert answer.code == 2
    for said in ("--model PATH_OR_HUB_ID", "--train FILE", "'budget.trials'", "'search.sampler'"):
        assert said in answer.err


def test_all_mistakes_of_a_space_are_told_at_once(hpo: Hpo, material: tuple[object, ...]) -> None:
    parameters = {"lerning_rate": {"value": 1}, "epochs": {"mni": 1}, "use_dora": {"value": 8}, "dropout": {"value": 2}}
    answer = hpo("check", *material, "--space", written("space.yaml", {"parameters": parameters}))
    assert answer.code == 2
    for said in (
        "'learning_rate'",
        "'min'",
        "DoRA and other variants of LoRA are not there",
        "it should be less than 1",
    ):
        assert said in answer.err


def test_a_path_with_an_equals_sign_is_no_override(hpo: Hpo) -> None:
    Path("day=1").mkdir()
    path = written("day=1/study=a.yaml", {"study": "s", "modl": {}})
    assert "Did you mean 'model'?" in hpo("run", path).err


def test_a_store_without_a_file_leaves_nothing(hpo: Hpo, material: tuple[object, ...]) -> None:
    answer = hpo("run", *material, "--store", "sqlite://hpo.db")
    assert (answer.code, "with three slashes" in answer.err) == (3, True)
    assert list(Path().iterdir()) == []
