"""A rank group for tests: rank 0 in the test's own process, the others in real ones, with faults of one of them.

A fault is read, at each pass, from a file in the folder of the group: `RANK WHAT`.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
import torch

from hpo.config.study_file import StudyConfig
from hpo.data.batching import Batch
from hpo.data.splits import load_splits
from hpo.distributed.rank_group import RankGroupLost, RankInfo, free_address
from hpo.files import checkpoints
from hpo.model.backbone import Backbone
from hpo.training.worker import Worker, open_worker

FAULT = "fault"
ROWS_WITH_ROOM = 1
PATIENCE = 60.0
"""Seconds after which a test gives up on a process."""
OUT_OF_MEMORY = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"


def inject(folder: Path, rank: int, what: str) -> None:
    """Let it happen to a rank in each pass from now on; `nothing` for no more of it."""
    (folder / FAULT).write_text(f"{rank} {what}")


def with_faults(patched: pytest.MonkeyPatch, folder: Path, rank: int) -> None:
    """Let the fault that is read in `folder` happen to this process in its training passes."""
    original = Backbone.logits

    def logits(self: Backbone, batch: Batch, precision):
        if not torch.is_grad_enabled():
            return original(self, batch, precision)
        told = (folder / FAULT).read_text().split() if (folder / FAULT).exists() else ["0", "nothing"]
        match told[1] if int(told[0]) == rank else "nothing":
            case "memory" if batch.rows > ROWS_WITH_ROOM:
                raise RuntimeError(OUT_OF_MEMORY)
            case "no-memory":
                raise RuntimeError(OUT_OF_MEMORY)
            case "error":
                raise ValueError("the rows of this rank are odd")
            case "nan":
                return original(self, batch, precision) * float("nan")
            case "death":
                os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, precision)

    patched.setattr(Backbone, "logits", logits)


def follow(config: StudyConfig, files: Path, folder: Path, rank_info: RankInfo) -> None:
    """Be a rank above 0, in a process of its own."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        with_faults(patched, folder, rank_info.rank)
        splits = load_splits(config.data, config.seed, folds=config.evaluation.folds)
        try:
            open_worker(config, splits, files, rank_info=rank_info).follow()
        except RankGroupLost:
            os._exit(3)
    os._exit(0)


@contextmanager
def opened_ranks(
    config: StudyConfig, files: Path, folder: Path, ranks: int = 2
) -> Iterator[tuple[Worker, list[SpawnProcess]]]:
    """Open the worker of rank 0, and the processes of the others, of which none is left afterwards."""
    context = multiprocessing.get_context("spawn")
    address = free_address()
    others = [
        context.Process(
            target=follow, args=(config, files, folder, RankInfo(rank=rank, ranks=ranks, address=address)), daemon=True
        )
        for rank in range(1, ranks)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GLOO_SOCKET_IFNAME", "lo")
        for other in others:
            other.start()
        with_faults(patched, folder, 0)
        splits = load_splits(config.data, config.seed, folds=config.evaluation.folds)
        try:
            yield open_worker(config, splits, files, rank_info=RankInfo(rank=0, ranks=ranks, address=address)), others
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            for other in others:
                other.kill()
                other.join()


def always_due(patched: pytest.MonkeyPatch) -> None:
    """Let rank 0 write a checkpoint before every step."""
    patched.setattr(checkpoints.Checkpoints, "is_due", lambda *_: True)
