"""One tiny search, and what is exported of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.loading import load_config
from hpo.config.study_file import ModelConfig, StudyConfig
from hpo.export.configs import configuration_of, to_yaml
from hpo.export.exported_file import Exported
from hpo.runners.run import run
from hpo.store.results import StudyResults
from tests.export.lora_cases import LORA, MODELS, Case
from tests.models import save_tiny_bert, write_texts

SPACE = {
    "learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 3e-2, "default": 1e-2},
    "dropout": {"min": 0.0, "max": 0.3, "default": 0.1},
    "batch_size": {"values": [8, 16], "default": 8},
    "epochs": {"value": 3},
    "max_length": {"value": 16},
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.csv", rows=150)


@pytest.fixture(scope="session")
def config(model_folder: Path, texts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    torch.set_num_threads(1)
    return load_config(
        values={
            "study": "tiny",
            "model": {"name": str(model_folder)},
            "data": {"train": str(texts_file)},
            "space": SPACE,
            "search": {"sampler": "random", "pruner": "none"},
            "evaluation": {"full_reports": 3, "rung_rows": 12, "rungs": 4, "first_rung": 250},
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
            "budget": {"trials": 3},
            "confirmation": {"finalists": 0},
            "store": {"url": f"sqlite:///{tmp_path_factory.mktemp('store') / 'hpo.db'}"},
        }
    )


@pytest.fixture(scope="session")
def results(config: StudyConfig) -> StudyResults:
    return run(config)


@pytest.fixture(scope="session")
def content(results: StudyResults) -> dict[str, Any]:
    return configuration_of(results, None)


@pytest.fixture(scope="session")
def exported(content: dict[str, Any]) -> Exported:
    return Exported.model_validate(content)


@pytest.fixture
def best_file(content: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "best.yaml"
    path.write_text(to_yaml(content))
    return path


@pytest.fixture
def case(exported: Exported, tmp_path: Path) -> Callable[..., Case]:
    def of(kind: str = "bert", dtype: str = "fp32", **values: Any) -> Case:
        model = ModelConfig.model_validate({"name": str(MODELS[kind](tmp_path / kind)), "dtype": dtype})
        made = Hyperparameters.model_validate(LORA | values)
        chosen = exported.model_copy(update={"model": model, "hyperparameters": made})
        return Case(exported=chosen, folder=tmp_path)

    return of
