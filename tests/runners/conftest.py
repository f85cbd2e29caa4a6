"""GPUs that are not there, and real worker processes over a small study."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
import torch

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits, load_splits
from hpo.messages import Assignment, Begun, Outcome, Progress
from hpo.runners.processes.launcher import open_processes
from hpo.runners.processes.protocol import Opener
from hpo.runners.remote_worker_pool import RemoteWorkerPool
from hpo.runners.worker_pool import WorkerMessage
from tests.models import save_tiny_bert, tiny_assignment, tiny_study, write_texts
from tests.runners.openers import open_counting

PASSWORD = "sw0rdfish"
URL = f"postgresql+psycopg://night:{PASSWORD}@nowhere/studies"
PATIENCE = 60.0
"""Seconds after which a test gives up on a process."""

Opened = Callable[..., AbstractContextManager[RemoteWorkerPool]]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretends that torch sees so many GPUs."""

    def see(number: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 16)

    return see


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    folder = tmp_path_factory.mktemp("study")
    model, texts = save_tiny_bert(folder / "bert"), write_texts(folder / "texts.csv", rows=80)
    data = {"train": str(texts), "test_fraction": 0.2}
    secrets = {"notify": (f"mailto://night:{PASSWORD}@nowhere",), "warm_start": (f"{URL}#earlier",)}
    return tiny_study(model, texts, data=data, store={"url": URL}, **secrets)


@pytest.fixture(scope="module")
def splits(study: StudyConfig) -> Splits:
    return load_splits(study.data, study.seed)


def with_workers(study: StudyConfig, workers: int, **compute: float) -> StudyConfig:
    sections = {**study.compute.model_dump(), "workers": workers, **compute}
    return study.model_copy(update={"compute": ComputeConfig.model_validate(sections)})


@pytest.fixture
def opened(study: StudyConfig, splits: Splits, tmp_path: Path) -> Iterator[Opened]:
    """Opens as many workers, of which none is left when the test is over."""
    before = psutil.Process().children()

    def open_with(opener: Opener = open_counting, workers: int = 1, **compute: float) -> object:
        return open_processes(with_workers(study, workers, **compute), splits, tmp_path, opener=opener)

    yield open_with
    assert psutil.Process().children() == before


def heard(
    pool: RemoteWorkerPool, enough: Callable[[list[tuple[str, WorkerMessage]]], bool]
) -> list[tuple[str, WorkerMessage]]:
    """Listen until that is enough; return what was said, beside progress."""
    said: list[tuple[str, WorkerMessage]] = []
    until = time.monotonic() + PATIENCE
    while not enough(said):
        assert time.monotonic() < until, f"only {said} was said"
        said += [one for one in pool.listen(1.0) if not isinstance(one[1], Begun | Progress)]
    return said


def outcomes(pool: RemoteWorkerPool, number: int) -> dict[int, Outcome]:
    """Listen until so many trials have ended, and return how."""
    said = heard(pool, lambda said: sum(isinstance(one, Outcome) for _, one in said) == number)
    return {one.trial: one for _, one in said if isinstance(one, Outcome)}


def ready(pool: RemoteWorkerPool, *names: str) -> None:
    heard(pool, lambda _: pool.capacities.keys() == set(names))


def trial(number: int, seed: int = 3) -> Assignment:
    return tiny_assignment(trial=number, seed=seed)


LONG = 10_000
"""A seed to which counting takes minutes."""


def in_training(pool: RemoteWorkerPool) -> None:
    """Wait until a trial is in training."""
    until = time.monotonic() + PATIENCE
    while not any(isinstance(said, Progress) for _, said in pool.listen(1.0)):
        assert time.monotonic() < until
