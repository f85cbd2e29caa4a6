"""Steps on a GPU: how often one waits for it, whose random state it takes, and that it is a CPU's to rounding."""

import io
import warnings
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from hpo.config.hyperparameters import OptimizerName
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.messages import Ending, WorkerSettings
from hpo.model.randomness import RandomState
from hpo.training.worker import Worker, open_worker
from tests.cuda.conftest import GPU
from tests.models import tiny_assignment, tiny_hyperparameters, trained
from tests.training.synchronizing import begun, take
from tests.training.test_synchronizations import OF_A_PARAMETER

pytestmark = pytest.mark.cuda


def waited(computed: Callable[[], object]) -> int:
    """Return how often torch says that the host waited for the GPU meanwhile."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            computed()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(one.message) for one in said)


def test_the_count_of_waits_counts() -> None:
    number = torch.ones((), device=GPU)
    assert waited(lambda: float(number)) == 1
    assert waited(lambda: number + number) == 0


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_a_step_waits_as_often_as_it_was_counted_without_a_gpu(worker: Worker, optimizer: str) -> None:
    hyperparameters = tiny_hyperparameters(optimizer=optimizer)
    step = begun(worker._context, hyperparameters, 3)
    most = OF_A_PARAMETER.get(optimizer, 0) * len(step.parameters)
    assert waited(lambda: take(worker._context, step, hyperparameters)) <= most


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_a_resumed_step_waits_no_oftener(worker: Worker, optimizer: str) -> None:
    """A checkpoint is read to the CPU, and what an optimizer holds on the host stays there."""
    hyperparameters = tiny_hyperparameters(optimizer=optimizer)
    before = begun(worker._context, hyperparameters, 3)
    fresh = waited(lambda: take(worker._context, before, hyperparameters))
    file = io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    state = torch.load(file, map_location="cpu", weights_only=True)
    resumed = begun(worker._context, hyperparameters, 0)
    resumed.resume(state)
    assert waited(lambda: take(worker._context, resumed, hyperparameters)) <= fresh


def test_the_kernels_of_tiny_steps_take_a_part_of_their_time(worker: Worker) -> None:
    assert 0 < worker.busy_share(tiny_hyperparameters()) < 1


def test_a_random_state_swaps_the_gpu_s_generator_without_waiting_for_it() -> None:
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device=GPU)
    torch.cuda.manual_seed(5)
    one, other = RandomState(7, GPU), RandomState(8, GPU)
    with one:
        first = torch.rand(3, device=GPU)
    with other:
        torch.rand(3, device=GPU)
    with one:
        second = torch.rand(3, device=GPU)
    assert torch.equal(torch.rand(3, device=GPU), expected), "the outside draws what it would have drawn"
    again = RandomState(7, GPU)
    with again:
        assert torch.equal(torch.rand(3, device=GPU), first)
        kept = again.current()
        assert torch.equal(torch.rand(3, device=GPU), second)
    elsewhere = RandomState(9, GPU)
    with elsewhere:
        elsewhere.adopt([kept])
        assert torch.equal(torch.rand(3, device=GPU), second)


def test_a_trial_learns_on_a_gpu_what_it_learns_on_a_cpu(worker: Worker, study: StudyConfig, splits: Splits) -> None:
    assignment = tiny_assignment(tiny_hyperparameters(dropout=0.0, learning_rate=1e-3))
    on_cpu = study.model_copy(update={"compute": ComputeConfig(device="cpu", precision="fp32", threads=1)})
    expected, _ = trained(open_worker(on_cpu, splits), assignment)
    reports, outcome = trained(worker, assignment)
    assert outcome.ending is Ending.COMPLETED, outcome.reason
    assert [report.train_loss for report in reports] == pytest.approx([one.train_loss for one in expected], rel=1e-3)


@pytest.mark.parametrize("optimizer", get_args(OptimizerName))
def test_every_optimizer_trains_in_bf16(worker: Worker, optimizer: str) -> None:
    worker.use(WorkerSettings(precision="bf16"))
    _, outcome = trained(worker, tiny_assignment(tiny_hyperparameters(optimizer=optimizer, learning_rate=1e-4)))
    assert outcome.ending is Ending.COMPLETED, outcome.reason
