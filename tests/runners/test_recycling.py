import dataclasses

import pytest

from hpo.messages import Ending, Outcome
from hpo.runners.processes.worker_process import Memory, recycle_reason

GIB = 2**30
USUAL = Memory(own=2 * GIB, tensors=4 * GIB)


def outcome(ending: Ending, reason: str = "") -> Outcome:
    return Outcome(trial=0, attempt=1, ending=ending, seconds=1.0, peak_memory_bytes=0, reason=reason)


def sentence(ending: Ending, reason: str = "", **after: int) -> str:
    return recycle_reason(outcome(ending, reason), first=USUAL, before=USUAL, after=dataclasses.replace(USUAL, **after))


@pytest.mark.parametrize("ending", list(Ending))
def test_no_ending_alone_wears_a_process(ending: Ending):
    assert sentence(ending, "The text 'CUDA' is no number.") == ""


@pytest.mark.parametrize(
    "reason",
    [
        "AcceleratorError: CUDA error: device-side assert triggered",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm",
    ],
)
def test_after_an_error_of_its_gpu_a_process_is_worn(reason: str):
    assert reason in sentence(Ending.FAILED, reason)


def test_running_out_of_memory_wears_only_where_tensors_are_left():
    assert sentence(Ending.INFEASIBLE, "CUDA out of memory.") == ""
    assert sentence(Ending.INFEASIBLE, tensors=4 * GIB + 2**28) == ""
    assert sentence(Ending.INFEASIBLE, tensors=7 * GIB) == "A trial that ran out of memory left 3.0 GiB on the GPU."
    assert sentence(Ending.COMPLETED, tensors=7 * GIB) == ""


def test_growth_wears_beyond_half_as_much_again_and_two_gib():
    assert sentence(Ending.COMPLETED, own=5 * GIB) == ""
    assert sentence(Ending.COMPLETED, own=6 * GIB) == (
        "It holds 6.0 GiB of memory, after its first trial it was 2.0 GiB."
    )


def test_this_process_holds_memory():
    held = Memory.now()
    assert held.own > 2**20
    assert held.tensors == 0
