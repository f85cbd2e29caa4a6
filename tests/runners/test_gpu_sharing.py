"""Trials that share GPUs under `compute.workers: auto`: as many as pay, fit into memory and have a core each."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Measurement, Probe, WorkerSettings
from hpo.runners import gpu_sharing
from hpo.runners.gpu_sharing import MOST_TRIALS, SPARE_MEMORY, speedups, trials_per_gpu, with_shared_gpus
from hpo.runners.processes.worker_specs import runner_of, worker_specs_of, workers_of
from hpo.search.preflight import space_of_study
from tests.runners.test_measuring import Notes

GIB = 2**30
FULL = {"learning_rate": {"value": 1e-4}, "max_length": {"value": 16}}
LORA = {**FULL, "method": {"value": "lora"}}


def probe_of(peak: float, room: float = 80.0) -> Probe:
    return Probe(feasible=True, peak_memory_bytes=int(peak * GIB), room_bytes=int(room * GIB))


@pytest.mark.parametrize(
    ("peak", "busy", "cores", "trials"),
    [
        (2.0, 1.0, 16, 1),
        (2.0, 0.95, 16, 1),
        (2.0, 0.8, 16, 1),  # Less than a tenth is to be gained.
        (2.0, 0.7, 16, 2),
        (2.0, 0.4, 16, 4),
        (2.0, 0.25, 16, 8),
        (2.0, 0.1, 16, 16),
        (2.0, 0.01, 64, 16),
        (2.0, 0.25, 3, 2),
        (2.0, 0.25, 1, 1),
        (30.0, 0.25, 16, 2),
        (79.0, 0.25, 16, 1),
        (90.0, 0.25, 16, 1),
    ],
)
def test_the_number_of_trials(peak: float, busy: float, cores: int, trials: int):
    assert trials_per_gpu(probe_of(peak), busy, cores=cores) == trials


@given(peak=st.floats(0.5, 100), room=st.floats(4, 140), busy=st.floats(0.001, 1.0), cores=st.integers(1, 200))
def test_trials_have_memory_and_cores(peak: float, room: float, busy: float, cores: int):
    trials = trials_per_gpu(probe_of(peak, room), busy, cores=cores)
    assert trials in (1, 2, 4, 8, MOST_TRIALS)
    assert trials == 1 or (trials <= cores and trials * SPARE_MEMORY * peak <= room * (1 + 1e-9))
    assert trials == 1 or busy < 0.9


@given(busy=st.floats(0.01, 0.99))
def test_speedups_equal_the_closed_form_of_the_machine_repair_model(busy: float):
    rates, load = speedups(busy), busy / (1 - busy)
    for n in (1, 2, 5, MOST_TRIALS):
        idle = 1 / sum(math.perm(n, waiting) * load**waiting for waiting in range(n + 1))
        assert rates[n] == pytest.approx((1 - idle) / busy)
        assert rates[n] <= min(n, 1 / busy) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        ({"workers": "auto", "runner": "ray_tune"}, "with ray_tune give compute.gpus_per_trial instead"),
        ({"workers": "auto", "runner": "inline"}, "compute.runner is inline; choose processes"),
        ({"workers": "auto", "gpus_per_trial": 0.5}, "leave one of the two out"),
    ],
)
def test_workers_auto_is_refused_where_it_cannot_divide_gpus(compute: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        ComputeConfig(**compute)


class Lead:
    """A worker whose typical trial keeps its GPU busy for 0.4 of its time."""

    def __init__(self) -> None:
        self.used: list[str] = []

    def measure(self, _hyperparameters: object) -> Measurement:
        return Measurement(fp32_seconds=0.1, bf16_seconds=0.05, difference=0.0, precision="bf16")

    def use(self, settings: WorkerSettings) -> None:
        self.used.append(settings.precision)

    def probe(self, _hyperparameters: object, _steps: int) -> Probe:
        return probe_of(3.0)

    def busy_share(self, _hyperparameters: object) -> float:
        return 0.4


def study(space: dict[str, Any], **compute: Any) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "study": "shared", "model": {"name": "model"}, "data": {"train": "texts.csv"}, "space": space,
            "compute": {"workers": "auto", **compute},
        }
    )  # fmt: skip


def shared(config: StudyConfig, splits: Any = None) -> tuple[StudyConfig, list[str]]:
    notes = Notes()
    return with_shared_gpus(config, space_of_study(config), splits, notes, lambda: False), notes.notes


@pytest.fixture
def leads(monkeypatch: pytest.MonkeyPatch) -> list[Lead]:
    """The workers that were opened, on a machine that seems to have two GPUs and 16 cores."""
    opened: list[Lead] = []

    @contextmanager
    def open_pool(_config: StudyConfig, _splits: Splits, files: Path, _is_ending: object) -> Iterator[SimpleNamespace]:
        assert files.is_dir()
        opened.append(Lead())
        yield SimpleNamespace(lead=opened[-1])

    monkeypatch.setattr(gpu_sharing, "open_processes", open_pool)
    monkeypatch.setattr(gpu_sharing, "choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("hpo.runners.processes.worker_specs.choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    return opened


def test_trials_share_gpus_as_measured(leads: list[Lead]):
    config, notes = shared(study(FULL))
    assert leads[0].used == ["bf16"]
    assert config.compute.requested_workers is None
    assert config.compute.gpus_per_trial == 0.25
    assert workers_of(config.compute, {}) == 8
    specs = worker_specs_of(config.compute, {})
    assert [spec.visible for spec in specs] == [("0",), ("1",)] * 4
    assert {spec.gpu_share for spec in specs} == {0.25}
    assert notes[-1] == (
        "Each GPU trains 4 trials side by side: one keeps it busy for 40% of the time, and takes at most 3.0 of 80.0 "
        "GiB."
    )


def test_a_trial_that_does_not_fit_has_a_gpu_of_its_own(leads: list[Lead], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Lead, "probe", lambda *_: Probe(feasible=False))
    monkeypatch.delattr(Lead, "busy_share")
    config, notes = shared(study(FULL))
    assert config.compute.gpus_per_trial is None
    assert notes[-1] == "Each GPU trains one trial: the dearest one does not fit into its memory."


def test_the_measured_worker_uses_the_precision_of_the_study(leads: list[Lead]):
    shared(study(FULL, precision="fp32"))
    assert leads[0].used == ["fp32"]


@pytest.mark.parametrize(
    ("space", "compute", "measures"),
    [
        (LORA, {}, False),  # Slots share one worker's weights.
        (LORA, {"slots": 1}, True),
        (FULL, {"ranks": 2}, False),
        (FULL, {"slots": 1}, True),
    ],
)
def test_only_trials_that_would_have_a_gpu_to_themselves_are_measured(
    space: dict[str, Any], compute: dict[str, Any], measures: bool, leads: list[Lead]
):
    config, _ = shared(study(space, **compute))
    assert bool(leads) == measures
    assert config.compute.workers is None
    assert config.compute.gpus_per_trial == (0.25 if measures else None)


def test_a_cpu_has_one_worker():
    config, notes = shared(study(FULL, device="cpu"))
    assert runner_of(study(FULL, device="cpu").compute) == "inline"
    assert config.compute == ComputeConfig(device="cpu")
    assert not notes
