"""Memory: out-of-memory detection, the micro-batch size that fits, and how much of a device is used and free.

If memory runs out, a batch is split into micro-batches, whose gradients add up to those of the batch. Only dropout
masks differ, because they are drawn in other shapes; their distribution is the same.
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
"""Size of a block that is returned to the system when it is freed, and of smaller freed blocks that are kept."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""

CONTEXT_BYTES = 2**29
"""Approximate GPU memory that CUDA itself takes for a process."""
# Parts of messages by which plain RuntimeErrors and torch's AcceleratorErrors of allocators are recognised.
_SIGNS = (
    "DefaultCPUAllocator", "can't allocate memory", "CUDA error: out of memory", "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip
# The complete message of oneDNN without memory for its code; unsupported operations mention a "primitive descriptor".
_ONEDNN_SIGN = "could not create a primitive"


class OutOfMemoryInEvaluation(MemoryError):
    """Too little memory to score a single row."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return true if `error` means that memory of a device or of this machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and (message == _ONEDNN_SIGN or any(sign in message for sign in _SIGNS))


def if_memory_suffices(compute: Callable[[], T]) -> T | None:
    """Return the result of `compute`; None if memory runs out, after its tensors have been freed."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler, because the error's frames keep their tensors alive.
    return None


def settle_heap() -> None:
    """Limit the memory that freed CPU tensors occupy, without requesting small blocks from the system at each step.

    By default glibc keeps freed blocks of up to 32 MiB, and live tensors between them fragment the heap. It also
    returns the end of the heap to the system whenever it can, and small models then spend most of their time on getting
    it back.
    """
    # Other C libraries have no mallopt.
    with suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_HEAP)


def release(device: torch.device) -> None:
    """Empty torch's cache of GPU memory; to be called after an error is handled, whose frames keep tensors alive."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_peak(device: torch.device) -> None:
    """Reset the peak of GPU memory, with an empty cache; the peak memory of a process cannot be reset."""
    if device.type == "cuda":
        release(device)
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak GPU memory of torch since `reset_peak`; on a CPU, that of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def room_bytes(device: torch.device) -> int:
    """Return the memory that this process can use: free and own memory of a GPU; on a CPU, all of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) + CONTEXT_BYTES
    return int(psutil.virtual_memory().total)


@dataclass(slots=True)
class MicroBatch:
    """Micro-batch size of trials of one kind, shared in a process, so that a trial starts with the size of the last."""

    rows: int | None = None
    """Largest number of rows at once; None for whole batches."""
    is_checkpointed: bool = False
    """True if gradient checkpointing is used."""

    def at_once(self, batch_rows: int) -> int:
        """Return the micro-batch size for a batch of that many rows."""
        return batch_rows if self.rows is None else min(self.rows, batch_rows)

    def lower(self, rows: int | None) -> None:
        """Use at most `rows` at once; None changes nothing."""
        if rows is not None:
            self.rows = self.at_once(rows)

    def restore(self, earlier: "MicroBatch") -> None:
        """Return to an earlier state, because even the smaller sizes since then did not fit and tell nothing."""
        self.rows, self.is_checkpointed = earlier.rows, earlier.is_checkpointed

    def shrink(self, rows: int, *, may_checkpoint: bool) -> bool:
        """Reduce memory after it ran out with `rows` at once; return false if that is impossible.

        Halve the rows. From a single row, turn gradient checkpointing on if allowed, and return to whole batches.
        """
        checkpoints = rows == 1 and may_checkpoint and not self.is_checkpointed
        if checkpoints:
            self.rows, self.is_checkpointed = None, True
        elif rows > 1:
            self.rows = rows // 2
        return checkpoints or rows > 1


def memory_key(hyperparameters: Hyperparameters) -> MemoryKey:
    """Return the values that, besides its rows, determine a step's memory; trials with equal ones share a size."""
    names = ("method", "max_length", "optimizer", "trained_layers", "kept_layers", "lora_rank", "lora_targets")
    return tuple(getattr(hyperparameters, name) for name in names)
