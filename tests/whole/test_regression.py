"""A regression all the way: searched, confirmed, reported, exported, trained and asked, in the unit of the labels."""

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import load_config
from hpo.config.study_file import StudyConfig
from hpo.config.tasks import TASK_FACTS
from hpo.data.splits import splits_of
from hpo.errors import SpaceError
from hpo.export.configs import configuration_of
from hpo.export.exported_file import Exported
from hpo.export.model_folder import train_into
from hpo.export.retraining import compute_of, open_trainer, study_and_splits
from hpo.export.training_arguments import left_to_do, to_training_arguments
from hpo.metrics.regression import METRICS
from hpo.model.trial_model import TrialModel
from hpo.objective import FineTuneObjective
from hpo.runners.check.check import check
from hpo.runners.run import run
from hpo.search.pruners import fold_milestones
from hpo.store.results import StudyResults
from hpo.tasks.regression import Regression
from hpo.training.worker import open_worker
from hpo.verdict.judgement import verdict_on
from tests.command_line import Hpo
from tests.models import (
    BOTH,
    MONEY,
    SPORT,
    assert_trained_alike,
    said_by_card,
    save_tiny_bert,
    tiny_assignment,
    tiny_study,
    trained,
)
from tests.scripts import written

SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 2e-2, "default": 5e-3},
    "batch_size": {"values": [8, 16], "default": 8},
    "epochs": {"value": 3},
    "max_length": {"value": 16},
}
MEAN, OF_A_WORD = 1000.0, 40.0


def write_numbers(path: Path, rows: int) -> Path:
    """Write texts of 3 to 12 words, each with the share of them that is about sport: 1000 for half, 40 for a tenth."""
    random = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "score"])
        for _ in range(rows):
            likely, length = random.random(), random.integers(3, 13)
            words = [random.choice(SPORT if random.random() < likely else MONEY + BOTH) for _ in range(length)]
            share = sum(word in SPORT for word in words) / length
            writer.writerow([" ".join(words), round(MEAN + 10 * OF_A_WORD * (share - 0.5), 3)])
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("regression")
    return load_config(
        values={
            "study": "numbers",
            "model": {"name": str(save_tiny_bert(folder / "model"))},
            "data": {"train": str(write_numbers(folder / "texts.csv", 500)), "test_fraction": 0.2},
            "task": {"name": "regression"},
            "space": SPACE,
            "search": {"sampler": "random"},
            "evaluation": {"rung_rows": 20, "rungs": 4, "first_rung": 250},
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
            "budget": {"trials": 4},
            "confirmation": {"finalists": 1, "seeds": 3, "share": 0.5, "audit": 0},
            "store": {"url": f"sqlite:///{folder / 'hpo.db'}"},
        }
    )


@pytest.fixture(scope="module")
def results(config: StudyConfig) -> StudyResults:
    return run(config)


@pytest.fixture(scope="module")
def content(results: StudyResults) -> dict[str, Any]:
    return configuration_of(results, None)


@pytest.fixture(scope="module")
def exported(content: dict[str, Any]) -> Exported:
    return Exported.model_validate(content)


@pytest.fixture(scope="module")
def folder(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train_into(folder, exported, compute_of(exported), "train", lambda _: None)
    return folder


def test_the_search_learns_and_its_errors_are_in_the_unit_of_the_labels(
    config: StudyConfig, results: StudyResults
) -> None:
    assert results.metric == "pearson"
    best = results.best.validation
    assert best is not None
    assert best.values.keys() == {*METRICS, "loss"}
    assert best.objective > 0.6
    sd = np.std([float(label) for label in splits_of(config).train.labels])
    assert best.values["neg_rmse"] == pytest.approx(-math.sqrt(best.values["loss"]) * sd)
    assert 0.02 * sd < -best.values["neg_rmse"] < 1.2 * sd
    assert not best.per_class


def test_the_verdict_stands_on_its_baselines(results: StudyResults) -> None:
    verdict = verdict_on(results)
    assert verdict is not None
    scores = {one.name: one.score for one in verdict.baselines}
    assert scores.keys() == Regression.baselines.keys()
    assert scores["mean of training"] == 0
    assert scores["TF-IDF and ridge regression"] > 0.7, "the labels are counts of words"
    for held_out in results.baselines.values():
        assert held_out.scores.values["neg_rmse"] > -200
    assert all(sum(one**2 for one in run.held_out.deviations) > 0 for run in results.confirmation)
    assert {one.by for one in results.test[-1].held_out.slices} == {"length"}
    assert TASK_FACTS["regression"].slices[0] in results.test[-1].held_out.scores.values


def test_the_report_draws_errors_by_length_and_no_classes(
    config: StudyConfig, results: StudyResults, hpo: Hpo, tmp_path: Path
) -> None:
    answer = hpo("report", "--store", config.store.url, "--study", results.name, "--output", "report.html")
    assert answer.code == 0, answer.err
    page = (tmp_path / "report.html").read_text()
    assert "neg rmse" in page
    assert "have no confusion matrix" in page


def test_what_is_printed_is_in_these_words(config: StudyConfig, results: StudyResults, hpo: Hpo) -> None:
    best = hpo("best", "--store", config.store.url, "--study", results.name)
    assert best.code == 0, best.err
    assert "pearson 0." in best.out
    assert "neg_mae -" in best.out
    assert "precision" not in best.out


def test_nothing_is_doubted_of_numbers(config: StudyConfig) -> None:
    found = check(config)
    assert found.refusals == ()
    assert not [doubt for doubt in found.warnings if "first step" in doubt or "rows tell about" in doubt]


def test_a_trained_model_predicts_what_evaluation_predicted(
    exported: Exported, folder: Path, hpo: Hpo, tmp_path: Path
) -> None:
    place = study_and_splits(exported, compute_of(exported))
    context = open_trainer(exported, *place)._context
    model = TrialModel(context.model, context.task, exported.hyperparameters, seed=0)
    model.load(load_file(folder / "model.safetensors"))
    said: Any = context.predict(context.tokenized(exported.hyperparameters.max_length)["validation"])
    texts = place[1].validation.texts
    (tmp_path / "in.csv").write_text("\n".join(["text", *texts]))
    answer = hpo("predict", folder, "in.csv")
    assert answer.code == 0, answer.err
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert list(rows[0]) == ["text", "prediction"]
    assert [float(row["prediction"]) for row in rows] == pytest.approx(said.predicted, abs=1e-6)
    assert np.corrcoef(said.true, said.predicted)[0, 1] == pytest.approx(exported.score, abs=1e-4)
    assert float(said_by_card(folder, texts[0])) == pytest.approx(said.predicted[0], rel=1e-6)


def test_the_folder_says_what_its_outputs_are_scaled_by(exported: Exported, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    numbers = [float(label) for label in splits_of(exported.study_config(compute_of(exported))).train.labels]
    assert config["problem_type"] == "regression"
    assert config["hpo"]["learned"] == {"mean": pytest.approx(np.mean(numbers)), "sd": pytest.approx(np.std(numbers))}
    raw = pipeline("text-classification", model=str(folder), tokenizer=str(folder), function_to_apply="none")
    scaled = raw("goal team match")[0]["score"]
    assert 900 < scaled * config["hpo"]["learned"]["sd"] + config["hpo"]["learned"]["mean"] < 1400


@pytest.mark.parametrize("values", [{}, {"data_fraction": 0.6, "optimizer": "adam"}])
def test_the_script_trains_the_model_that_hpo_trains(
    exported: Exported, values: dict[str, Any], tmp_path: Path
) -> None:
    # A larger epsilon, so that rounding is not taken for a gradient where there is none, as of a key's bias.
    given = exported.hyperparameters.to_mapping() | {"epsilon": 1e-4} | values
    said: list[str] = []
    chosen = exported.model_copy(update={"hyperparameters": Hyperparameters.model_validate(given)})
    train_into(tmp_path / "ours", chosen, compute_of(chosen), "train", said.append)
    module = written(chosen, tmp_path)
    config, _ = module.configuration([])
    score = module.train(config, tmp_path / "theirs", torch.device("cpu"), 16)
    best = max(float(one.rpartition(" ")[2]) for one in said if one.startswith("epoch "))
    assert score == pytest.approx(best, abs=1e-4)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert_trained_alike(theirs, ours, Path(chosen.model.name), rtol=1e-3, atol=1e-4)
    facts = [json.loads((tmp_path / name / "config.json").read_text())["hpo"] for name in ("ours", "theirs")]
    assert facts[0] == facts[1]


def test_trainer_is_told_how_targets_are_scaled(exported: Exported) -> None:
    assert to_training_arguments(exported)["metric_for_best_model"] == "pearson"
    assert "(number - mean) / sd of the training rows" in left_to_do(exported)[0]


def test_a_configuration_trains_with_folds_and_a_metric_of_numbers(config: StudyConfig) -> None:
    values = config.model_dump(mode="json") | {"confirmation": {"finalists": 0, "audit": 0}}
    values |= {"evaluation": {"folds": 3}, "task": {"name": "regression", "metric": "neg_mae"}, "study": "folds"}
    values["budget"] = {"trials": 1}
    best = run(StudyConfig.model_validate(values)).best.validation
    assert best is not None
    assert -110 < best.objective < -10


def test_a_trial_with_what_has_no_meaning_fails_and_says_so(config: StudyConfig) -> None:
    worker = opened_worker(config)
    hyperparameters = Hyperparameters(label_smoothing=0.1, max_length=16)
    _, outcome = trained(worker, tiny_assignment(hyperparameters))
    assert "task.name is regression, which has no classes: leave out label_smoothing." in outcome.reason


def test_a_plain_objective_refuses_a_space_with_it(config: StudyConfig) -> None:
    values = config.model_dump(mode="json")
    values["space"] = {**SPACE, "label_smoothing": {"min": 0.0, "max": 0.3, "default": 0.0}}
    with pytest.raises(SpaceError, match="leave out label_smoothing"):
        FineTuneObjective(StudyConfig.model_validate(values))


def opened_worker(config: StudyConfig) -> Any:
    from hpo.training.worker import open_worker

    return open_worker(config, splits_of(config))


def test_a_fold_learns_nothing_of_the_rows_that_it_leaves_out(tmp_path: Path) -> None:
    """Not even how large their numbers are."""
    torch.set_num_threads(1)
    texts = write_numbers(tmp_path / "texts.csv", 60)
    config = tiny_study(
        save_tiny_bert(tmp_path / "model"), texts, task={"name": "regression", "metric": "neg_rmse"},
        data={"train": str(texts), "test_fraction": 0.2}, evaluation={"folds": 3, "rung_rows": 12},
    )  # fmt: skip
    splits, assignment = splits_of(config), tiny_assignment(milestones=fold_milestones(3))
    left_out = set(splits.folds[-1].validation)
    labels = tuple(str(float(one) + 1e6 * (row in left_out)) for row, one in enumerate(splits.train.labels))
    changed = open_worker(config, replace(splits, train=replace(splits.train, labels=labels)), tmp_path / "files")
    (*_, known, _), _ = trained(open_worker(config, splits, tmp_path / "others"), assignment)
    (*_, found, _), _ = trained(changed, assignment)
    assert found.train_loss == known.train_loss
    assert known.validation.objective > -1e3
    # What is kept are the weights of this fold, which answer in its scale.
    plain = open_worker(config, splits, tmp_path / "files")
    assert changed.test_evaluation(assignment) == plain.test_evaluation(assignment)
    numbers = np.array(splits.train.labels, dtype=float)
    losses = [
        ((numbers[fold.validation] - numbers[fold.train].mean()) ** 2).mean() / numbers[fold.train].var()
        for fold in splits.folds
    ]
    assert plain.baseline("mean of training", 16).scores.values["loss"] == pytest.approx(np.mean(losses))
