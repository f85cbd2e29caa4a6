import pytest
import torch

from hpo.training.out_of_memory import OutOfMemoryInEvaluation, is_out_of_memory, peak_memory_bytes


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


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=str,
)
def test_all_forms_that_a_gpu_s_libraries_have_for_it_are_known(error: RuntimeError):
    assert is_out_of_memory(error)


def test_an_error_of_a_kernel_is_none_of_memory():
    assert not is_out_of_memory(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))


def test_the_peak_holds_what_was_allocated():
    cpu = torch.device("cpu")
    tensor = torch.ones(2**24)
    assert peak_memory_bytes(cpu) > tensor.nbytes
