"""The multi-label task: its loss and thresholds; and a search over it, to what a model of it predicts."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers import pipeline

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import parse_yaml, write_yaml
from hpo.config.study_file import EvaluationConfig, StudyConfig
from hpo.config.tasks import TaskConfig
from hpo.data.splits import splits_of
from hpo.errors import ConfigurationError
from hpo.files.weights import fitted_among, load_weights
from hpo.messages import Action, Milestone
from hpo.metrics.multi_label import best_thresholds
from hpo.model.trial_model import TrialModel
from hpo.search.pruners import fold_milestones
from hpo.tasks.multi_label import MultiLabel
from hpo.training.optimizer_step import OptimizerStep
from hpo.training.run_state import fold_runs
from hpo.training.worker import open_worker
from tests.command_line import Hpo
from tests.models import (
    said_by_card,
    save_tiny_bert,
    tiny_assignment,
    tiny_hyperparameters,
    tiny_study,
    trained,
    write_label_sets,
)

NAMES = ("long", "money", "sport")
CELLS = ['["sport"]', '["money", "sport"]', "[]", '["long", "sport"]']


@pytest.fixture
def task() -> MultiLabel:
    return MultiLabel.of(TaskConfig(name="multi_label"), CELLS)


def test_targets_are_ones_where_a_row_has_the_label(task: MultiLabel) -> None:
    assert task.label_names == NAMES
    assert task.targets(CELLS).tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0], [1, 0, 1]]


def test_the_loss_of_a_row_is_the_sum_over_labels_whatever_is_beside_it(task: MultiLabel) -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    targets = torch.from_numpy(task.targets(CELLS))
    losses = task.criterion(Hyperparameters(), torch.device("cpu"))(logits, targets)
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum(dim=1)
    assert torch.allclose(losses, expected)
    alone = [task.criterion(Hyperparameters(), torch.device("cpu"))(logits[[row]], targets[[row]]) for row in range(4)]
    assert torch.allclose(losses, torch.cat(alone))


def test_smoothing_and_balanced_weights_are_those_that_are_documented(task: MultiLabel) -> None:
    logits, targets = torch.randn(4, 3), torch.from_numpy(task.targets(CELLS))
    values = Hyperparameters(label_smoothing=0.2, class_weights="balanced")
    p, wanted = logits.sigmoid(), targets * 0.8 + 0.1
    weights = torch.tensor([3.0, 3.0, 1 / 3])  # Rows without the label over rows with it.
    expected = -(weights * wanted * p.log() + (1 - wanted) * (1 - p).log()).sum(dim=1)
    assert torch.allclose(task.criterion(values, torch.device("cpu"))(logits, targets), expected, atol=1e-5)


def test_the_weight_of_a_label_that_every_row_has_does_not_keep_it_from_being_learned() -> None:
    assert MultiLabel.of(TaskConfig(name="multi_label"), ['["a"]', '["a", "b"]']).positive_weights == (1.0, 1.0)


def test_a_predicted_label_that_holds_the_separator_is_read_back_as_it_is() -> None:
    task = MultiLabel.of(TaskConfig(name="multi_label"), ['["a", "a|b", "b"]'])
    cells = task.columns(np.array([[0.9, 0.1, 0.9], [0.1, 0.9, 0.1], [0.1, 0.1, 0.1]]))["prediction"]
    assert cells == ["a|b", '["a|b"]', ""]


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """A study whose winners are judged by validation, as it has too few rows to keep some from the search."""
    torch.set_num_threads(1)
    texts = write_label_sets(tmp_path / "texts.csv", rows=160)
    return tiny_study(save_tiny_bert(tmp_path / "bert"), texts, task={"name": "multi_label"})


def test_thresholds_are_fitted_to_training_rows_where_winners_are_judged_by_validation(
    config: StudyConfig, tmp_path: Path
) -> None:
    worker = open_worker(config, splits_of(config), tmp_path / "files")
    _, outcome = trained(worker, tiny_assignment())
    assert outcome.best is not None
    context, tensors = worker._context, load_weights(tmp_path / "files", 0)
    fitted = fitted_among(tensors)
    assert fitted is not None
    TrialModel(context.model, context.task, tiny_hyperparameters(), seed=0).load(tensors)
    (fold_run,) = fold_runs(tiny_assignment(), context)
    of_training: Any = context.predict(fold_run.data["train"], fold_run.train_sample)
    assert fitted == pytest.approx(best_thresholds(of_training.true, of_training.probabilities, per_label=False))
    said: Any = context.predict(fold_run.data["validation"])
    score = f1_score(said.true, said.probabilities >= fitted, average="micro")
    assert outcome.best.validation.objective == pytest.approx(score)
    assert worker.has_weights(outcome.best)


def test_thresholds_are_fitted_to_validation_where_winners_are_judged_by_other_rows(config: StudyConfig) -> None:
    splits = splits_of(config)
    context = open_worker(config, replace(splits, confirmation=splits.validation.take([0, 1, 2, 3])))._context
    said = context.predict(context.tokenized(16)["validation"])
    fitted = context.fit(said, lambda: pytest.fail("these are not asked for"))
    assert isinstance(context.task, MultiLabel)
    assert fitted is not None
    assert fitted == pytest.approx(context.task.fit(said))  # type: ignore[arg-type]
    assert context.decided(said, fitted).thresholds is fitted  # type: ignore[attr-defined]


def test_with_folds_thresholds_are_fitted_to_rows_that_the_fold_trains_on(config: StudyConfig, tmp_path: Path) -> None:
    folded = config.model_copy(update={"evaluation": EvaluationConfig(folds=2, rung_rows=12)})
    worker = open_worker(folded, splits_of(folded), tmp_path / "files")
    milestones = tuple(Milestone(rung=rung, full=rung == 1000) for rung in (500, 1000))
    assignment = tiny_assignment(milestones=milestones)
    for fold_run, fold in zip(fold_runs(assignment, worker._context), worker._context.splits.folds, strict=True):
        assert set(fold_run.train_sample) <= set(fold.train)
    _, outcome = trained(worker, assignment)
    assert outcome.ending == "completed", outcome.reason
    assert fitted_among(load_weights(tmp_path / "files", 0)) is not None


def test_one_that_is_cut_before_its_last_evaluation_ends_with_its_thresholds(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it goes on from is trained to the end of the last fold, and has no thresholds yet."""
    folded = config.model_copy(update={"evaluation": EvaluationConfig(folds=2, rung_rows=12)})
    assignment, splits = tiny_assignment(milestones=fold_milestones(2)), splits_of(folded)
    trained(open_worker(folded, splits, tmp_path / "uncut"), assignment)
    worker, take = open_worker(folded, splits, tmp_path / "cut"), OptimizerStep.take

    def cut(training: OptimizerStep, loss: torch.Tensor) -> None:
        take(training, loss)
        run = worker._runs[0]
        if training.taken == training.total_steps and run._state.fold_run == 1:
            run.decide(Action.PAUSE)

    with monkeypatch.context() as patched:
        patched.setattr(OptimizerStep, "take", cut)
        _, paused = trained(worker, assignment)
    assert (paused.ending, paused.reason) == ("paused", "At step 20 of 20 of fold 2 of 2.")
    _, outcome = trained(open_worker(folded, splits, tmp_path / "cut"), replace(assignment, attempt=2))
    assert outcome.ending == "completed", outcome.reason
    expected, found = (fitted_among(load_weights(tmp_path / name, 0)) for name in ("uncut", "cut"))
    assert found is not None
    assert found.tolist() == expected.tolist()  # type: ignore[union-attr]


def test_baselines_have_thresholds_of_their_own_training_rows(config: StudyConfig) -> None:
    worker = open_worker(config, splits_of(config))
    scores = {name: worker.baseline(name, 16).scores.objective for name in MultiLabel.baselines}
    assert 0.4 < scores["most frequent labels"] < scores["TF-IDF and logistic regressions"]
    assert scores["TF-IDF and logistic regressions"] > 0.8, "the labels are words"


def test_a_metric_that_there_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"Multi-label has no metric 'f1'"):
        MultiLabel.of(TaskConfig(name="multi_label", metric="f1"), CELLS)
    with pytest.raises(ConfigurationError, match="a metric is maximised; choose neg_log_loss"):
        MultiLabel.of(TaskConfig(name="multi_label", metric="log_loss"), CELLS)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file over tiny texts."""
    torch.set_num_threads(1)
    content = {
        "study": "sets",
        "model": {"name": str(save_tiny_bert(tmp_path / "bert"))},
        "data": {"train": str(write_label_sets(tmp_path / "texts.csv", rows=260)), "test_fraction": 0.2},
        "task": {"name": "multi_label"},
        "space": {
            "learning_rate": {"distribution": "log_uniform_values", "min": 3e-3, "max": 3e-2, "default": 1e-2},
            "batch_size": {"value": 16},
            "epochs": {"value": 4},
            "max_length": {"value": 16},
        },
        "search": {"sampler": "random", "pruner": "none"},
        "evaluation": {"rung_rows": 40, "rungs": 2},
        "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
        "budget": {"trials": 2},
        "confirmation": {"finalists": 1, "seeds": 3, "share": 0.5, "audit": 0},
        "store": {"url": f"sqlite:///{tmp_path / 'hpo.db'}", "keep_weights": 1},
    }
    path = tmp_path / "study.yaml"
    path.write_text(write_yaml(content))
    return path


def micro_f1(rows: Sequence[dict[str, str]]) -> float:
    def matrix(column: str) -> list[list[bool]]:
        return [[name in row[column].replace(" ", "").split("|") for name in NAMES] for row in rows]

    return float(f1_score(matrix("labels"), matrix("prediction"), average="micro"))


@pytest.mark.slow
def test_it_is_searched_confirmed_reported_exported_trained_and_used(hpo: Hpo, study: Path) -> None:
    ran = hpo("run", study)
    assert ran.code == 0, ran.err
    best = hpo("best", "--json")
    assert best.code == 0, best.err
    found = json.loads(best.out)
    assert found["metric"] == "micro_f1"
    assert hpo("report", "--output", "report.html").code == 0
    assert hpo("export", "--output", "best.yaml").code == 0
    assert parse_yaml(Path("best.yaml").read_text(), "")["test"]["micro_f1"] > 0.5
    trained = hpo("train", "best.yaml", "--output", "model")
    assert trained.code == 0, trained.err
    new = write_label_sets(Path("new.csv"), rows=80, seed=1)
    answer = hpo("predict", "model", new)
    assert answer.code == 0, answer.err
    rows = rows_of(answer.out)
    assert micro_f1(rows) > 0.6
    classify = pipeline("text-classification", model="model", tokenizer="model", top_k=None)
    thresholds = json.loads(Path("model/config.json").read_text())["hpo"]["learned"]["thresholds"]
    for row, said in zip(rows, classify([row["text"] for row in rows], truncation=True, max_length=16), strict=True):
        probabilities = json.loads(row["probability"])
        assert probabilities == pytest.approx({one["label"]: one["score"] for one in said}, abs=1e-5)
        given = [name for name, least in zip(NAMES, thresholds, strict=True) if probabilities[name] >= least]
        assert row["prediction"] == "|".join(given)
    assert said_by_card(Path("model"), rows[0]["text"]) == str(rows[0]["prediction"].split("|"))
