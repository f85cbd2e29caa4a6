"""Worker specs: the runner of a study, the number of workers on this machine, and the GPUs of their ranks."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from hpo.config.study_file import ComputeConfig
from hpo.errors import ConfigurationError
from hpo.runners.processes.protocol import Arrived
from hpo.training.device import choose_device


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """The devices and threads of one worker, with a process for each rank; its replacement has the same."""

    worker: str
    devices: tuple[str, ...]
    """Device of each rank, in torch's notation in the parent: `cpu`, `cuda:1`."""
    visible: tuple[str, ...]
    """CUDA_VISIBLE_DEVICES of each rank's process, which sees that GPU only, as its first; empty for none."""
    threads: int
    """Threads of one rank."""
    gpu_share: float = 1.0
    """Share of a GPU's memory that one rank may take, if several share the GPU."""

    @property
    def ranks(self) -> int:
        """Number of processes."""
        return len(self.devices)

    @property
    def arrived(self) -> Arrived:
        """First message about a worker started from this spec."""
        more = f" and {self.ranks - 1} more" if self.ranks > 1 else ""
        return Arrived(name=self.worker, device=f"{self.devices[0]}{more}", place=self.worker)


def runner_of(compute: ComputeConfig) -> Literal["inline", "processes", "ray_tune"]:
    """Return the runner of a study; for `auto`, processes on a GPU or for several workers.

    Raises:
        ConfigurationError: a GPU is requested and torch sees none.
    """
    if compute.runner != "auto":
        return compute.runner
    # A CUDA error or a hang affects the whole process, which must not be that of the search.
    several = compute.requested_workers is not None or compute.ranks_of_trial > 1 or workers_of(compute) > 1
    return "processes" if several or choose_device(compute).type == "cuda" else "inline"


def workers_of(compute: ComputeConfig, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of workers; by default as many as the GPUs have room for, and one on the CPU.

    Raises:
        ConfigurationError: a GPU is requested and torch sees none, or a trial requests more GPUs than there are.
    """
    gpus = len(_gpus(compute, environment))
    _refuse_too_few(compute, gpus)
    if compute.requested_workers is not None:
        return compute.requested_workers
    of_trial = compute.gpus_per_trial or compute.ranks_of_trial
    # Trials that share a GPU have equal parts of it, and no trial is spread over parts of several GPUs.
    return max(1, gpus // int(of_trial) if of_trial >= 1 else gpus * int(1 / of_trial))


def worker_specs_of(compute: ComputeConfig, environment: Mapping[str, str]) -> tuple[WorkerSpec, ...]:
    """Return the specs of all workers; if there are more ranks than GPUs, ranks are dealt to the GPUs in turn.

    Raises:
        ConfigurationError: a GPU is requested and torch sees none, or a trial requests more GPUs than there are.
    """
    workers, ranks, gpus = workers_of(compute, environment), compute.ranks_of_trial, _gpus(compute, environment)
    threads = compute.threads or max(1, torch.get_num_threads() // (workers * ranks))
    if not gpus:
        return tuple(
            WorkerSpec(worker=f"cpu-{n}", devices=("cpu",) * ranks, visible=("",) * ranks, threads=threads)
            for n in range(workers)
        )
    most = max(-(-workers * ranks // len(gpus)), int(1 / min(1.0, compute.gpus_per_trial or 1.0)))
    dealt = [[(n * ranks + rank) % len(gpus) for rank in range(ranks)] for n in range(workers)]
    return tuple(
        WorkerSpec(
            worker=f"gpu-{n}",
            devices=tuple(f"cuda:{gpu}" for gpu in own),
            visible=tuple(gpus[gpu] for gpu in own),
            threads=threads,
            gpu_share=1 / most,
        )
        for n, own in enumerate(dealt)
    )


def _refuse_too_few(compute: ComputeConfig, gpus: int) -> None:
    """Refuse more GPUs for a trial than this machine has; ranks alone can do without any."""
    name, asked = "gpus_per_trial", compute.gpus_per_trial or 0
    if gpus and compute.ranks is not None:
        name, asked = "ranks", compute.ranks
    if asked > gpus:
        raise ConfigurationError(
            f"compute.{name} is {asked:g}, but the GPUs of this machine that trials can train on are {gpus}; lower it, "
            "or choose compute.runner ray_tune to train on a cluster."
        )


def _gpus(compute: ComputeConfig, environment: Mapping[str, str]) -> Sequence[str]:
    """Return the names, as CUDA_VISIBLE_DEVICES takes them, of the GPUs that trials can train on.

    Of several parts of a GPU that MIG divides, CUDA shows a process the first alone; each worker is given one.
    """
    if choose_device(compute).type != "cuda":
        return ()
    named = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if named and all(name.startswith("MIG-") for name in named):
        return named
    # Counting does not initialise a GPU, which would take memory of it for a process that never trains.
    count = torch.cuda.device_count()
    return named[:count] or [str(number) for number in range(count)]
