"""Out-of-memory detection: every form of the error, and what becomes of a trial at each place where it is raised."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.splits import load_splits
from hpo.memory import OutOfMemoryInEvaluation, is_out_of_memory, peak_memory_bytes
from hpo.messages import Ending
from hpo.training.worker import Worker, open_worker
from tests.models import tiny_assignment, tiny_hyperparameters, trained
from tests.training.out_of_memory import (
    assert_close,
    in_backward,
    in_evaluation,
    in_forward,
    in_training,
    weights_of,
)


def test_the_cpu_allocators_own_error_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)


def test_other_errors_are_not_memory():
    assert is_out_of_memory(torch.OutOfMemoryError())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a matmul primitive"))


def test_onednns_own_words_are_known():
    """Seen under a limit of memory, where nothing else was wrong: the same step in smaller parts went through."""
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    assert is_out_of_memory(OutOfMemoryInEvaluation())


FORMS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]
"""In which a GPU's libraries say that memory ran out."""


@pytest.mark.parametrize("error", FORMS, ids=str)
def test_all_forms_that_a_gpu_s_libraries_have_for_it_are_known(error: RuntimeError):
    assert is_out_of_memory(error)


def test_an_error_of_a_kernel_is_none_of_memory():
    assert not is_out_of_memory(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))


def test_the_peak_holds_what_was_allocated():
    cpu = torch.device("cpu")
    tensor = torch.ones(2**24)
    assert peak_memory_bytes(cpu) > tensor.nbytes


# Where it runs out


CHOSEN = tiny_hyperparameters(dropout=0.0, learning_rate=1e-3)


@pytest.fixture(scope="module")
def worker(study: StudyConfig) -> Worker:
    return open_worker(study, load_splits(study.data, study.seed))


@pytest.fixture(scope="module")
def expected(worker: Worker) -> dict[str, torch.Tensor]:
    """The weights after a trial without a fault."""
    trained(worker, tiny_assignment(CHOSEN))
    return weights_of(worker)


@pytest.fixture
def afresh(worker: Worker) -> Iterator[Worker]:
    """The worker, which after the test has nothing left of what came to its memory."""
    yield worker
    worker._context.gradients._micro_batch.clear()


def raising(error: Exception) -> Callable[[], None]:
    def exhaust() -> None:
        raise error

    return exhaust


@pytest.mark.parametrize("place", [in_forward, in_backward])
@pytest.mark.parametrize("error", FORMS, ids=str)
def test_in_a_pass_the_step_is_taken_in_parts_and_stays_the_step_it_is(
    afresh: Worker, expected: dict[str, torch.Tensor], place: Any, error: Exception
) -> None:
    with place(afresh, in_training(2), raising(error)):
        _, outcome = trained(afresh, tiny_assignment(CHOSEN, trial=1))
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, 2), outcome.reason
    assert_close(weights_of(afresh), expected)


@pytest.mark.parametrize("place", [in_forward, in_backward])
def test_in_a_pass_of_one_row_the_trial_is_infeasible_and_leaves_the_next_alone(
    afresh: Worker, expected: dict[str, torch.Tensor], place: Any
) -> None:
    with place(afresh, in_training(0), raising(FORMS[1])):
        _, outcome = trained(afresh, tiny_assignment(CHOSEN, trial=1))
    assert outcome.ending is Ending.INFEASIBLE
    _, following = trained(afresh, tiny_assignment(CHOSEN, trial=2))
    assert (following.ending, following.micro_batch_size) == (Ending.COMPLETED, None)
    assert_close(weights_of(afresh), expected)


@pytest.mark.parametrize("error", FORMS, ids=str)
def test_in_an_evaluation_fewer_rows_are_scored_at_once(
    afresh: Worker, expected: dict[str, torch.Tensor], error: Exception
) -> None:
    with in_forward(afresh, in_evaluation(2), raising(error)):
        _, outcome = trained(afresh, tiny_assignment(CHOSEN, trial=1))
    assert (outcome.ending, outcome.micro_batch_size) == (Ending.COMPLETED, None), outcome.reason
    assert_close(weights_of(afresh), expected)


@pytest.mark.parametrize("error", FORMS, ids=str)
def test_in_the_optimizer_s_own_step_the_trial_is_infeasible(
    afresh: Worker, expected: dict[str, torch.Tensor], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", lambda *_, **__: raising(error)())
        _, outcome = trained(afresh, tiny_assignment(CHOSEN, trial=1))
    assert outcome.ending is Ending.INFEASIBLE
    trained(afresh, tiny_assignment(CHOSEN, trial=2))
    assert_close(weights_of(afresh), expected)


HELD = """
import torch
from psutil import Process
from hpo.memory import settle_heap

torch.set_num_threads(1)
settle_heap()
before, held = Process().memory_info().rss, []
for _ in range(40):
    passing = [torch.ones(2**22 - 100), torch.ones(2**22 - 100)]
    held.append(torch.ones(2**20))
    del passing
print(Process().memory_info().rss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be told")
def test_what_passes_between_tensors_that_stay_leaves_memory_again() -> None:
    """In a new process, since glibc learns; forty tensors of 4 MiB stay, each made beside two of 16 MiB."""
    command = [sys.executable, "-c", HELD]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken < 1.1 * 40 * 2**22
