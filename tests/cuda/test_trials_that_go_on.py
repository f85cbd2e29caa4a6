"""A trial that was cut on a GPU resumes there as the same trial, on a CPU anew; a group of one rank adds up by NCCL."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.distributed.rank_group import ProcessGroup, RankInfo, free_address
from hpo.messages import Action, Ending
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, trained
from tests.training.out_of_memory import assert_close, weights_of

pytestmark = pytest.mark.cuda

CHOSEN = tiny_hyperparameters(dropout=0.2, learning_rate=1e-3)
ON_CPU = {"compute": ComputeConfig(device="cpu", precision="fp32", threads=1)}


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "schedule_free_adamw", "adafactor", "muon"])
def test_a_trial_that_was_paused_goes_on_from_its_checkpoint(
    study: StudyConfig, splits: Splits, tmp_path: Path, optimizer: str
) -> None:
    chosen = tiny_hyperparameters(dropout=0.2, learning_rate=1e-3, optimizer=optimizer)
    straight = open_worker(study, splits, tmp_path / "straight")
    _, outcome = trained(straight, tiny_assignment(chosen))
    assert outcome.ending is Ending.COMPLETED, outcome.reason
    _, cut = trained(open_worker(study, splits, tmp_path / "cut"), tiny_assignment(chosen), {250: Action.PAUSE})
    assert cut.ending is Ending.PAUSED, cut.reason
    again = open_worker(study, splits, tmp_path / "cut")
    _, ended = trained(again, tiny_assignment(chosen, attempt=2))
    assert (ended.ending, ended.resumed_examples > 0) == (Ending.COMPLETED, True), ended.reason
    assert_close(weights_of(again), weights_of(straight))


@pytest.mark.parametrize("cut_on_gpu", [True, False])
def test_what_was_cut_on_another_kind_of_device_begins_anew(
    study: StudyConfig, splits: Splits, tmp_path: Path, cut_on_gpu: bool
) -> None:
    """The random state of one is nothing to the other; weights and optimizers would be."""
    on_cpu = study.model_copy(update=ON_CPU)
    first, second = (study, on_cpu) if cut_on_gpu else (on_cpu, study)
    _, cut = trained(open_worker(first, splits, tmp_path), tiny_assignment(CHOSEN), {250: Action.PAUSE})
    assert cut.ending is Ending.PAUSED, cut.reason
    _, ended = trained(open_worker(second, splits, tmp_path), tiny_assignment(CHOSEN, attempt=2))
    assert (ended.ending, ended.resumed_examples) == (Ending.COMPLETED, 0), ended.reason


@pytest.fixture
def gang_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ProcessGroup]]:
    """Lets a worker open as rank 0 of one, over torch.distributed."""
    made: list[ProcessGroup] = []

    def join(_rank_info: RankInfo | None, device: torch.device, seconds: float) -> ProcessGroup:
        rank_info = RankInfo(rank=0, ranks=1, address=free_address())
        made.append(ProcessGroup(rank_info, device, timedelta(seconds=seconds)))
        return made[-1]

    monkeypatch.setattr("hpo.training.worker.join", join)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    yield made
    torch.distributed.destroy_process_group()


def test_a_gang_of_one_trains_over_nccl_what_it_trains_alone(
    worker: Worker, study: StudyConfig, splits: Splits, gang_of_one: list[ProcessGroup]
) -> None:
    _, outcome = trained(worker, tiny_assignment(CHOSEN))
    assert outcome.ending is Ending.COMPLETED, outcome.reason
    together = open_worker(study, splits)
    _, outcome = trained(together, tiny_assignment(CHOSEN))
    assert outcome.ending is Ending.COMPLETED, outcome.reason
    assert torch.distributed.get_backend(gang_of_one[-1]._sums) == "nccl"
    assert_close(weights_of(together), weights_of(worker))
