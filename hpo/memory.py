"""Memory: out-of-memory detection, the micro-batch size that fits, and how much of a device is used and free.

A step stays the step it is: where memory runs out, its batch goes through in micro-batches whose gradients add up to
the batch's. Only dropout masks are drawn for other shapes: their distribution is kept, and not each number.
"""

import ctypes
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch

from hpo.config.hyperparameters import Hyperparameters

T = TypeVar("T")

MemoryKey = tuple[object, ...]

LARGE_BLOCK, KEPT_HEAP = 2**22, 2**26
"""Bytes of a block that leaves this process when it is freed, and of freed smaller ones that stay in it."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt`."""

CONTEXT_BYTES = 2**29
"""What CUDA itself takes of a GPU for a process, about."""
# What allocators raise as plain RuntimeErrors, or torch's AcceleratorError; these words are how it is recognised.
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
    message = str(error)
    return isinstance(error, RuntimeError) and (message == _ONEDNN_SIGN or any(sign in message for sign in _SIGNS))


def if_memory_suffices(compute: Callable[[], T]) -> T | None:
    """Return what `compute` returns; None where memory runs out, with nothing left of what it held."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: as long as the error lives, so do its frames and their tensors.
    return None


def settle_heap() -> None:
    """Keep freed tensors on a CPU from filling memory, or from being asked for anew at each step.

    By itself glibc comes to keep blocks of up to 32 MiB, which gradients and inputs of layers between them hold apart.
    The end of its heap it gives back at every chance, and small models take most of their time to fill it again.
    """
    # Another C library has no such thing.
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_HEAP)


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


def room_bytes(device: torch.device) -> int:
    """Return what this process can take: of a GPU what is free and what it holds; on CPU all that the machine has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) + CONTEXT_BYTES
    return int(psutil.virtual_memory().total)


@dataclass(slots=True)
class MicroBatch:
    """Of one kind of trial; shared by all of that kind in a process, so that the next begins where this one came to."""

    rows: int | None = None
    """Most rows at once; None for whole batches."""
    is_checkpointed: bool = False
    """Whether gradients are checkpointed."""

    def at_once(self, batch_rows: int) -> int:
        """Return how many rows of a batch of so many go through at once."""
        return batch_rows if self.rows is None else min(self.rows, batch_rows)

    def lower(self, rows: int | None) -> None:
        """Take at most `rows`; None for as many as now."""
        if rows is not None:
            self.rows = self.at_once(rows)

    def restore(self, earlier: "MicroBatch") -> None:
        """Take what was taken earlier: what it came to since was too much still, and says nothing of what fits."""
        self.rows, self.is_checkpointed = earlier.rows, earlier.is_checkpointed

    def shrink(self, rows: int, *, may_checkpoint: bool) -> bool:
        """Take less memory than `rows` at once did, at which it ran out; return whether that can be.

        Half as many rows; where that was one, all of them with gradient checkpointing, where that may be.
        """
        checkpoints = rows == 1 and may_checkpoint and not self.is_checkpointed
        if checkpoints:
            self.rows, self.is_checkpointed = None, True
        elif rows > 1:
            self.rows = rows // 2
        return checkpoints or rows > 1


def memory_key(hyperparameters: Hyperparameters) -> MemoryKey:
    """Return what the memory of a step depends on beside its rows; trials equal in it share a `MicroBatch`."""
    names = ("method", "max_length", "optimizer", "trained_layers", "kept_layers", "lora_rank", "lora_targets")
    return tuple(getattr(hyperparameters, name) for name in names)
