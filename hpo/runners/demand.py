"""What a trial takes of a cluster, and how many have room there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from hpo.config.study_file import ComputeConfig
from hpo.errors import ConfigurationError

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
        return min(_parts(name, machine.get(name, 0.0), need) for name, need in self.rank.items())

    def __str__(self) -> str:
        rank = ", ".join(f"{need:g} {name}" for name, need in self.rank.items())
        return rank if self.ranks == 1 else f"{self.ranks} times {rank}"


def _parts(name: str, offered: float, need: float) -> int:
    """Return how often Ray finds `need` in `offered`: a part of a GPU on one GPU, cores wherever they are."""
    # Ray counts in ten-thousandths: three thirds of a GPU are one.
    if name == "GPU" and need < 1:
        whole, rest = divmod(offered, 1.0)
        return int(whole) * int(1 / need + 1e-4) + int(rest / need + 1e-4)
    return int(offered / need + 1e-4)


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
    """Return in a sentence what a cluster offers, and how many trials have room on it.

    Raises:
        ConfigurationError: none has.
    """
    demand = demand_of(compute, machines)
    refuse_unplaceable(demand, machines)
    offers = Counter(
        ", ".join(f"{machine[name]:g} {name}" for name in KINDS if machine.get(name)) for machine in machines
    )
    offered = "; ".join(f"{count} of {offer or 'nothing'}" for offer, count in offers.items())
    return f"machines: {offered}; trials side by side: {demand.fits(machines)}, each with {demand}"
