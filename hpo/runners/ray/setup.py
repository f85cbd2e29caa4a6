"""Ray set-up: environment, address and installation, before Ray is imported; resources of trials on a cluster."""

import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil
from pathlib import Path

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.runners.worker_pool import WorkerPool

KINDS = ("CPU", "GPU")
ACCELERATOR_TYPE_SHARE = 0.001
"""Share that a trial reserves of the one unit per machine by which Ray marks its kind of accelerator."""
Machine = Mapping[str, float]
"""Total resources of a machine, or those that a rank reserves: `CPU`, `GPU`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResources:
    """Resources that a trial reserves on a cluster."""

    rank: Machine
    ranks: int
    apart: bool = False
    """True if ranks may be on several machines, because no single one has room for all."""

    def fits(self, machines: Sequence[Machine]) -> int:
        """Return how many trials fit at once on otherwise idle machines."""
        if self.apart:
            return sum(self._ranks_on(machine) for machine in machines) // self.ranks
        return sum(self._ranks_on(machine) // self.ranks for machine in machines)

    def _ranks_on(self, machine: Machine) -> int:
        return min(_parts(name, machine.get(name, 0.0), need) for name, need in self.rank.items())

    def __str__(self) -> str:
        rank = ", ".join(f"{need:g} {name}" for name, need in self.rank.items())
        return rank if self.ranks == 1 else f"{self.ranks} times {rank}"


def _parts(name: str, offered: float, need: float) -> int:
    """Return how often Ray finds `need` in `offered`: a part of a GPU on one GPU, cores wherever they are."""
    # Ray counts in ten-thousandths, so three trials of a third each fit on one GPU.
    if name == "GPU" and need < 1:
        whole, rest = divmod(offered, 1.0)
        return int(whole) * int(1 / need + 1e-4) + int(rest / need + 1e-4)
    return int(offered / need + 1e-4)


def resources_of(compute: ComputeConfig, machines: Sequence[Machine]) -> TrialResources:
    """Return what a trial reserves: a GPU for each rank if the cluster has any, and CPU cores for its threads.

    If the study sets neither, a rank gets the cores per GPU of the machine that has the fewest.
    """
    ranks, rank, kind = compute.ranks_of_trial, dict[str, float](), compute.accelerator_type
    has_gpus = any(machine.get("GPU", 0.0) for machine in machines)
    wants_gpus = compute.device == "cuda" or compute.gpus_per_trial is not None or kind is not None or has_gpus
    cpus = ceil(compute.cpus_per_trial / ranks) if compute.cpus_per_trial else compute.threads or 1
    if compute.device != "cpu" and wants_gpus:
        rank["GPU"] = min(1.0, compute.gpus_per_trial or 1.0)
        if kind is not None:
            rank[f"accelerator_type:{kind}"] = ACCELERATOR_TYPE_SHARE
        if compute.cpus_per_trial is None and compute.threads is None:
            with_gpus = (machine for machine in machines if machine.get("GPU"))
            shares = (int(one.get("CPU", 1.0) * rank["GPU"] / one["GPU"]) for one in with_gpus)
            cpus = max(1, min(shares, default=1))
    resources = TrialResources(rank={"CPU": cpus, **rank}, ranks=ranks)
    # Ranks communicate fastest on one machine; if none is large enough, or none has joined yet, they may be apart.
    return resources if ranks == 1 or resources.fits(machines) else replace(resources, apart=True)


def refuse_unplaceable(resources: TrialResources, machines: Sequence[Machine], asked: int | None = None) -> None:
    """Refuse a trial for which a cluster has no room at all, because the search would wait for ever.

    Not if a number of workers is `asked` for, because a cluster with an autoscaler grows on request.

    Raises:
        ConfigurationError: there is no room.
    """
    if resources.fits(machines) or asked is not None:
        return
    offered = "; ".join(
        ", ".join(f"{machine.get(name, 0.0):g} {name}" for name in resources.rank) for machine in machines
    )
    raise ConfigurationError(
        f"A trial takes {resources}, for which the cluster has no room; its machines have {offered or 'nothing'}. "
        "Lower compute.gpus_per_trial, compute.ranks, compute.cpus_per_trial or compute.threads, or start other "
        "machines; if the cluster starts machines itself, set compute.workers to the number of parallel trials."
    )


def described(compute: ComputeConfig, machines: Sequence[Machine]) -> str:
    """Return a sentence on the resources of a cluster and how many trials fit on it.

    Raises:
        ConfigurationError: no trial fits.
    """
    resources = resources_of(compute, machines)
    refuse_unplaceable(resources, machines)
    offers = Counter(
        ", ".join(f"{machine[name]:g} {name}" for name in KINDS if machine.get(name)) for machine in machines
    )
    offered = "; ".join(f"{count} of {offer or 'nothing'}" for offer, count in offers.items())
    return f"machines: {offered}; parallel trials: {resources.fits(machines)}, each with {resources}"


ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A thread of Tune that outlives the cluster must not start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # The output of raylets, a page for each lost machine, goes only to Ray's own logs.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Many workers may start at once, and Tune need not write the state that it would restore from.
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}
"""Environment variables, some of which Ray reads when it is imported; those that the user has set are kept."""
MOST_PORT = 65535


def machines_at(address: str | None) -> Sequence[Machine]:
    """Return the resources of the machines of a cluster: see `hpo.runners.ray.connection`.

    Raises:
        ConfigurationError: Ray is not installed, or there is no cluster.
    """
    set_up_ray()
    from hpo.runners.ray.connection import joined_cluster, machines_of_cluster

    with joined_cluster(address):
        return machines_of_cluster()


def open_ray_tune(
    config: StudyConfig, splits: Splits, files: Path, is_ending: Callable[[], bool]
) -> AbstractContextManager[WorkerPool]:
    """Set Ray up, and open a worker pool on its cluster: see `hpo.runners.ray.tune_launcher`.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    set_up_ray()
    from hpo.runners.ray.tune_launcher import open_ray_tune as opened

    return opened(config, splits, files, is_ending)


def refuse_unusable(compute: ComputeConfig) -> None:
    """Refuse an unusable cluster before data and model are read.

    Raises:
        ConfigurationError: Ray is not installed, or nothing answers at the cluster's address.
    """
    if compute.runner == "ray_tune":
        set_up_ray()
        refuse_unusable_address(compute.ray_address)


def set_up_ray() -> None:
    """Set Ray's environment variables, before it is imported.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if any(find_spec(name) is None for name in ("ray", "pyarrow", "pandas")):
        raise ConfigurationError(
            "compute.runner is ray_tune, which needs Ray; pip install 'llm-hpo[ray]' on all machines of the cluster."
        )


def refuse_unusable_address(address: str | None) -> None:
    """Refuse an unusable address at once; Ray would try it for almost a minute, with warnings.

    Raises:
        ConfigurationError: it is not the address of a cluster, or nothing answers there.
    """
    if address is None or address == "auto":
        return
    if "://" in address:
        raise ConfigurationError(
            f"compute.ray_address is {address}, which goes through Ray Client; start the search on a machine of the "
            "cluster, with auto or HOST:PORT of its head."
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MOST_PORT:
        raise no_cluster(address, "it is not HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise no_cluster(address, error.strerror or str(error)) from None


def no_cluster(address: str | None, reason: str) -> ConfigurationError:
    """Return the error of an address without a cluster."""
    return ConfigurationError(
        f"There is no Ray cluster at {address or 'this machine'}: {reason.rstrip('.')}. Give compute.ray_address as "
        "auto or HOST:PORT of its head, such as 10.0.0.1:6379, or leave it out to start Ray on this machine."
    )
