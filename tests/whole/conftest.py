"""A tiny model, and texts with odd column names."""

from pathlib import Path

import pytest
import torch

from hpo.config.loading import load_config
from hpo.config.parsing import write_yaml
from hpo.config.study_file import StudyConfig
from tests.command_line import Hpo
from tests.models import save_tiny_bert, write_texts
from tests.object_store import store

__all__ = ["store"]

SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-1, "default": 1e-2},
    "batch_size": {"values": [8, 16], "default": 8},
    "epochs": {"value": 2},
    "max_length": {"value": 16},
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV whose columns have names that nothing detects."""
    path = write_texts(tmp_path_factory.mktemp("texts") / "post.csv", rows=120)
    path.write_text(path.read_text().replace("text,label", "was gesagt wurde,worüber", 1))
    return path


@pytest.fixture
def config(model_folder: Path, texts_file: Path, tmp_path: Path) -> StudyConfig:
    torch.set_num_threads(1)
    return load_config(
        values={
            "study": "tiny",
            "model": {"name": str(model_folder)},
            "data": {
                "train": str(texts_file),
                "text_column": "was gesagt wurde",
                "label_column": "worüber",
                "test_fraction": 0.2,
            },
            "space": SPACE,
            "search": {"sampler": "random", "pruner": "none"},
            "evaluation": {"rung_rows": 12, "rungs": 4, "first_rung": 250},
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
            "budget": {"trials": 3},
            "confirmation": {"finalists": 0, "audit": 0},
            "store": {"url": f"sqlite:///{tmp_path / 'hpo.db'}"},
        }
    )


@pytest.fixture
def study_file(config: StudyConfig, tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(write_yaml(config.model_dump(mode="json")))
    return path


@pytest.fixture
def finished(hpo: Hpo, study_file: Path) -> Path:
    """A folder in which a search has ended."""
    assert hpo("run", study_file).code == 0
    return study_file.parent
