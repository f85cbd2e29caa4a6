"""Tests that need a GPU: `make test-cuda`, with models of random weights. Elsewhere each says why it is not run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import Splits, load_splits
from hpo.training.worker import Worker, open_worker
from tests.models import save_tiny_bert, tiny_study, write_texts

GPU = torch.device("cuda:0")


@pytest.fixture(scope="session", autouse=True)
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("This needs an NVIDIA GPU that torch sees: run `make test-cuda` on a machine with one.")


@pytest.fixture(autouse=True)
def _gives_memory_back() -> Iterator[None]:
    """A test that took nearly all of the GPU's memory leaves it to the next."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("study")
    model, texts = save_tiny_bert(folder / "bert"), write_texts(folder / "texts.csv", rows=81)
    return tiny_study(model, texts, compute={"device": "cuda", "precision": "fp32", "threads": 1})


@pytest.fixture(scope="session")
def splits(study: StudyConfig) -> Splits:
    return load_splits(study.data, study.seed)


@pytest.fixture
def worker(study: StudyConfig, splits: Splits, tmp_path: Path) -> Worker:
    return open_worker(study, splits, tmp_path / "files")
