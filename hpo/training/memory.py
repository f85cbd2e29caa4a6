"""Memory: whether an error says that it ran out, and how much of it was used."""

import resource
import sys
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

T = TypeVar("T")

CONTEXT_BYTES = 2**29
"""What CUDA itself takes of a GPU for a process, about."""
# What allocators raise as plain RuntimeErrors, or torch's AcceleratorError; these words are how it is told apart.
_SIGNS = (
    "DefaultCPUAllocator", "can't allocate memory", "CUDA error: out of memory", "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
# All that oneDNN says where there is no memory for its code; what it cannot compute at all is a "primitive descriptor".
_ONEDNN_SIGN = "could not create a primitive"


class OutOfMemoryInEvaluation(MemoryError):
    """Memory does not suffice to score one row."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` is a device's or this machine's memory running out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and (told == _ONEDNN_SIGN or any(sign in told for sign in _SIGNS))


def where_memory_suffices(compute: Callable[[], T]) -> T | None:
    """Return what `compute` returns; None where memory runs out, with nothing left of what it held."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: as long as the error lives, so do its frames and their tensors.
    return None


def release(device: torch.device) -> None:
    """Give back what torch keeps of a GPU's memory for later; after the error, whose frames hold their tensors."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Start counting the peak of a GPU anew, with nothing kept for later; a process's peak cannot be."""
    if device.type == "cuda":
        release(device)
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most that torch took of a GPU since `reset_peak`; on CPU, this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def context_bytes(device: torch.device) -> int:
    """Return what a process takes of a device beside what torch takes, about."""
    return CONTEXT_BYTES if device.type == "cuda" else 0


def room_bytes(device: torch.device) -> int:
    """Return what this process can take: of a GPU what is free and what it holds; on CPU all that the machine has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) + CONTEXT_BYTES
    return int(psutil.virtual_memory().total)
