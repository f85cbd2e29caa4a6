"""What a trial is said to do is what a real one does: its steps, the rows it scores, where it ends."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.search.assignments import build_assignment
from hpo.search.extent import extent_of
from hpo.space.search_space import SearchSpace
from hpo.training.worker import open_worker
from tests.models import save_tiny_bert, tiny_study, trained, write_texts

SPACE = SearchSpace.from_mapping(
    {
        "learning_rate": {"value": 1e-3},
        "batch_size": {"values": [8, 16]},
        "epochs": {"min": 1, "max": 2},
        "data_fraction": {"values": [0.3, 1.0]},
        "max_length": {"value": 16},
    },
    "tiny",
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


def study(model_folder: Path, folder: Path, **evaluation: Any) -> StudyConfig:
    texts = write_texts(folder / "texts.csv", 90)
    sections = {"rung_rows": 12, "rungs": 4, "first_rung": 250} | evaluation
    return tiny_study(model_folder, texts, evaluation=sections, search={"pruner": "auto"})


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("values", [
    {"batch_size": 8, "epochs": 2, "data_fraction": 1.0},
    {"batch_size": 16, "epochs": 1, "data_fraction": 0.3},
])  # fmt: skip
def test_a_trial_does_what_was_said(
    model_folder: Path, tmp_path: Path, folds: int | None, values: dict[str, Any]
) -> None:
    config = study(model_folder, tmp_path, folds=folds)
    splits = load_splits(config.data, config.seed, folds=folds)
    hyperparameters = SPACE.hyperparameters({"learning_rate": 1e-3, "max_length": 16} | values)
    extent = extent_of(config, SPACE, splits, hyperparameters)
    assignment = build_assignment(config, SPACE, hyperparameters, trial=0, attempt=1, seed=7, score_to_beat=None)
    reports, _ = trained(open_worker(config, splits), assignment)
    scored = reports[:-1] if folds else reports  # With folds the last one is their mean.
    assert extent.rung == reports[-1].rung
    assert extent.scored_rows == sum(
        report.validation.rows + (report.train.rows if report.train else 0) for report in scored
    )
    # Each fold counts its steps anew.
    assert extent.steps == (sum(report.step for report in scored) if folds else reports[-1].step)


def test_evaluations_that_fall_on_one_step_are_one(model_folder: Path, tmp_path: Path) -> None:
    config = study(model_folder, tmp_path, rungs=100, rung_rows=5)
    splits = load_splits(config.data, config.seed)
    values = {"learning_rate": 1e-3, "max_length": 16, "batch_size": 16, "epochs": 1, "data_fraction": 0.3}
    extent = extent_of(config, SPACE, splits, SPACE.hyperparameters(values))
    assert extent.steps == 2
    # Two full evaluations, the one at each step, each with 5 training rows; all parts fall on these steps too.
    assert extent.scored_rows == 2 * (splits.validation.rows + 5)
