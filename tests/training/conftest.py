from pathlib import Path

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.model.backbone import Backbone
from hpo.model.pretrained import load_model
from hpo.tasks.classification import Classification
from tests.models import save_tiny_bert, save_tiny_llama, tiny_study, write_texts


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.csv", rows=80)


@pytest.fixture(scope="session")
def study(tiny_bert: Path, texts: Path) -> StudyConfig:
    return tiny_study(tiny_bert, texts)


@pytest.fixture(scope="session")
def task(study: StudyConfig) -> Classification:
    return Classification.of(study.task, ["money", "sport"])


@pytest.fixture
def bert(study: StudyConfig, task: Classification) -> Backbone:
    return load_model(study.model, task, torch.device("cpu"))
