"""Recycling of worker processes: reasons to replace one by a fresh process, though it is alive."""

from dataclasses import dataclass

import psutil
import torch

from hpo.messages import Ending, Outcome

CUDA_SIGNS = ("CUDA error", "device-side assert", "CUBLAS_STATUS", "CUDNN_STATUS")
"""In the reason of a failure: after one of these every later call to the GPU may fail, so all later trials."""
MOST_GROWTH = 1.5
SLACK_BYTES = 2 * 2**30
"""A process may hold so many times as much as after its first trial, and so much more."""
KEPT_SHARE = 1.1
KEPT_BYTES = 256 * 2**20
"""After a trial that ran out of memory tensors may take so many times as much as before it, and so much more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory that a process holds, in bytes."""

    own: int
    """Of main memory, without mapped files: those are shared, and dropped when memory is short."""
    tensors: int
    """Of its GPU."""

    @classmethod
    def now(cls) -> "Memory":
        """Measure this process."""
        held = psutil.Process().memory_info()
        gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        tensors = torch.cuda.memory_allocated() if gpu else 0
        return cls(own=held.rss - getattr(held, "shared", 0), tensors=tensors)


def recycle_reason(outcome: Outcome, *, first: Memory, before: Memory, after: Memory) -> str:
    """Return in a sentence why a process should be replaced after `outcome`; empty where it need not be.

    Args:
        outcome: of the trial that has just ended.
        first: memory after the first trial of the process.
        before: memory before this one.
        after: memory after this one.
    """
    if outcome.ending is Ending.FAILED and any(sign in outcome.reason for sign in CUDA_SIGNS):
        return f"Its GPU is not to be trusted after an error: {outcome.reason}"
    if outcome.ending is Ending.INFEASIBLE and after.tensors > KEPT_SHARE * before.tensors + KEPT_BYTES:
        return f"A trial that ran out of memory left {_gib(after.tensors - before.tensors)} on the GPU."
    if after.own > MOST_GROWTH * first.own + SLACK_BYTES:
        return f"It holds {_gib(after.own)} of memory, after its first trial it was {_gib(first.own)}."
    return ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
