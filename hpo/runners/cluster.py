"""What a trial takes of a cluster and how many have room there; and how Ray is set up before it is imported."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path

from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.splits import Splits
from hpo.errors import ConfigurationError
from hpo.runners.workforce import Workforce

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A thread of Tune's that is late at the end must not start a Ray of its own.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # What raylets say goes to Ray's own logs, not between our lines: of a machine that dies that is a page.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Many lanes may start at once, and what Tune would restore from need not be written.
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
}
"""Ray reads some of these when it is imported. What the user has set stays."""

KINDS = ("CPU", "GPU")
Machine = Mapping[str, float]
"""What a machine offers in all, or a rank takes of one: `CPU`, `GPU`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a trial takes of a cluster."""

    rank: Machine
    ranks: int

    def fits(self, machines: Sequence[Machine]) -> int:
        """Return how many trials have room side by side on machines with nothing else to do."""
        return sum(self._ranks_on(machine) for machine in machines) // self.ranks

    def _ranks_on(self, machine: Machine) -> int:
        # Ray counts in ten-thousandths: three thirds of a GPU are one.
        return min(int(machine.get(name, 0.0) / need + 1e-4) for name, need in self.rank.items())

    def __str__(self) -> str:
        rank = ", ".join(f"{need:g} {name}" for name, need in self.rank.items())
        return rank if self.ranks == 1 else f"{self.ranks} times {rank}"


def demand_of(compute: ComputeConfig, machines: Sequence[Machine]) -> Demand:
    """Return what a trial takes: a GPU for each rank where the cluster has any, and CPU cores for its threads."""
    ranks = compute.ranks_of_trial
    cpus = ceil(compute.cpus_per_trial / ranks) if compute.cpus_per_trial else compute.threads or 1
    has_gpus = any(machine.get("GPU", 0.0) for machine in machines)
    wants_gpus = compute.device == "cuda" or compute.gpus_per_trial is not None or has_gpus
    if compute.device == "cpu" or not wants_gpus:
        return Demand(rank={"CPU": cpus}, ranks=ranks)
    return Demand(rank={"CPU": cpus, "GPU": min(1.0, compute.gpus_per_trial or 1.0)}, ranks=ranks)


def refuse_unplaceable(demand: Demand, machines: Sequence[Machine]) -> None:
    """Refuse a trial for which a cluster has no room at all: it would be waited for all night.

    Raises:
        ConfigurationError: there is none.
    """
    if demand.fits(machines):
        return
    offered = "; ".join(", ".join(f"{machine.get(name, 0.0):g} {name}" for name in demand.rank) for machine in machines)
    raise ConfigurationError(
        f"A trial takes {demand}, and the cluster has no room for that; its machines have {offered or 'nothing'}. "
        "Lower compute.gpus_per_trial, compute.ranks, compute.cpus_per_trial or compute.threads, or start other "
        "machines."
    )


def described(compute: ComputeConfig, machines: Sequence[Machine]) -> str:
    """Return in a sentence what a cluster offers, and how many trials have room on it."""
    demand = demand_of(compute, machines)
    offers = Counter(
        ", ".join(f"{machine[name]:g} {name}" for name in KINDS if machine.get(name)) for machine in machines
    )
    offered = "; ".join(f"{count} of {offer or 'nothing'}" for offer, count in offers.items())
    return f"machines: {offered}; trials side by side: {demand.fits(machines)}, each with {demand}"


def machines_at(address: str | None) -> Sequence[Machine]:
    """Return what the machines of a cluster offer: see `hpo.runners.ray_tune.joined_cluster`.

    Raises:
        ConfigurationError: Ray is not installed, or there is no cluster.
    """
    set_up_ray()
    from hpo.runners.ray_tune import joined_cluster, machines_of_cluster

    with joined_cluster(address):
        return machines_of_cluster()


def open_ray_tune(config: StudyConfig, splits: Splits, files: Path) -> AbstractContextManager[Workforce]:
    """Set Ray up, and open a workforce on its cluster: see `hpo.runners.ray_tune.open_ray_tune`.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    set_up_ray()
    from hpo.runners.ray_tune import open_ray_tune as opened

    return opened(config, splits, files)


def set_up_ray() -> None:
    """Make ready for the import of `hpo.runners.ray_tune`.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if any(find_spec(name) is None for name in ("ray", "pyarrow", "pandas")):
        raise ConfigurationError(
            "compute.runner is ray_tune, which needs Ray; pip install 'llm-hpo[ray]' on all machines of the cluster."
        )
