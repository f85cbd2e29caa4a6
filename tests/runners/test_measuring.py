"""Measurements before the first trial: how long they may take, and what is told of them."""

import math
import time
from pathlib import Path
from typing import Any, cast

import pytest

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Measurement, WorkerSettings
from hpo.runners.callbacks import SearchCallback
from hpo.runners.measuring import LONGEST_MEASURING, at_most, measured_settings, measuring_seconds
from hpo.search.coordinator import Coordinator
from hpo.space.search_space import SearchSpace
from hpo.training.probe import SlotRates
from hpo.training.worker import Worker, open_worker

LORA = {"method": {"value": "lora"}, "learning_rate": {"value": 1e-4}, "max_length": {"value": 16}}


class Lead:
    """A worker that takes all of the time it is given, and knows how much that was."""

    def __init__(self, bf16_seconds: float) -> None:
        self.limits: list[float] = []
        self.bf16_seconds = bf16_seconds

    def measure(self, _hyperparameters: object, most_seconds: float) -> Measurement:
        self.limits.append(most_seconds)
        reason = "" if self.bf16_seconds else "there is too little time"
        return Measurement(
            fp32_seconds=0.1, bf16_seconds=self.bf16_seconds, difference=0.0, precision="fp32", unmeasured=reason
        )

    def slot_rates(self, _hyperparameters: object, most_seconds: float) -> SlotRates:
        self.limits.append(most_seconds)
        return SlotRates(rates={1: 1.0, 2: 1.5}, shared_tokens=96)

    def use(self, settings: WorkerSettings) -> None:
        pass


class Store:
    """What a coordinator has stored."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None

    def measurements(self) -> dict[str, Any] | None:
        return self.stored

    def record_measurements(self, measured: dict[str, Any]) -> None:
        self.stored = measured


class Notes(SearchCallback):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def test_on_a_cpu_measurements_have_a_share_of_the_time(study: StudyConfig, splits: Splits, tmp_path: Path) -> None:
    worker = open_worker(study, splits, tmp_path)
    assert measuring_seconds(worker, time.time() + 1000) == pytest.approx(50, rel=0.01)
    assert measuring_seconds(worker, time.time() - 1) == 0
    assert measuring_seconds(worker, None) == LONGEST_MEASURING


def test_on_a_gpu_they_have_no_limit() -> None:
    class OnGpu:
        def facts(self) -> dict[str, str]:
            return {"device": "NVIDIA H200"}

    assert measuring_seconds(cast(Worker, OnGpu()), time.time() + 1000) == math.inf
    assert at_most(math.inf) == ""


def settings(
    study: StudyConfig, store: Store, most_seconds: float, bf16_seconds: float = 0.1
) -> tuple[WorkerSettings, Lead, list[str]]:
    config = study.model_copy(update={"compute": ComputeConfig(device="cpu", threads=1)})
    space, lead, told = SearchSpace.from_mapping(LORA, "lora"), Lead(bf16_seconds), Notes()
    found = measured_settings(
        config, space, cast(Worker, lead), cast(Coordinator, store), told, most_seconds=most_seconds
    )
    return found, lead, told.notes


def test_what_is_measured_is_told_with_its_limit_and_measured_once(study: StudyConfig) -> None:
    store = Store()
    found, lead, notes = settings(study, store, 100.0)
    assert found == WorkerSettings(precision="fp32", slots=2, shared_tokens=96)
    assert all(limit == pytest.approx(40, rel=0.05) for limit in lead.limits)
    assert [note.partition(",")[0] for note in notes] == [
        "Measuring whether bf16 pays here",
        "Measuring how many trials to train side by side",
        "Each worker trains 2 trials side by side",
    ]
    assert ", for about 40 s at most;" in notes[0]
    again, lead, notes = settings(study, store, 100.0)
    assert (again, lead.limits, notes) == (found, [], [])


@pytest.mark.parametrize(("most_seconds", "bf16_seconds"), [(0.0, 0.1), (2.0, 0.1), (100.0, 0.0)])
def test_without_time_nothing_is_tried_side_by_side(
    study: StudyConfig, most_seconds: float, bf16_seconds: float
) -> None:
    """Neither if a step would take longer than there is, nor if the precision could not be measured in time."""
    found, lead, notes = settings(study, Store(), most_seconds, bf16_seconds)
    assert found == WorkerSettings(precision="fp32", slots=1)
    assert len(lead.limits) == 1
    told = any(note.startswith("Whether bf16 pays was not measured") and "too little time" in note for note in notes)
    assert told is (bf16_seconds == 0)
    assert notes[-1].startswith("There was too little time to measure how many trials to train side by side")
