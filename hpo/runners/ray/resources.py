"""Resources of a cluster: what a trial takes of them, and how many trials have room."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from hpo.config.study_file import ComputeConfig
from hpo.errors import ConfigurationError

KINDS = ("CPU", "GPU")
A_LITTLE = 0.001
"""Share that a trial takes of the one unit that Ray gives each machine of its kind of accelerator."""
Machine = Mapping[str, float]
"""What a machine offers in all, or a rank takes of one: `CPU`, `GPU`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResources:
    """The resources that a trial takes of a cluster."""

    rank: Machine
    ranks: int
    apart: bool = False
    """Whether ranks may be on several machines: no one of them has room for all."""

    def fits(self, machines: Sequence[Machine]) -> int:
        """Return how many trials fit side by side on otherwise idle machines."""
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
    # Ray counts in ten-thousandths: three thirds of a GPU are one.
    if name == "GPU" and need < 1:
        whole, rest = divmod(offered, 1.0)
        return int(whole) * int(1 / need + 1e-4) + int(rest / need + 1e-4)
    return int(offered / need + 1e-4)


def resources_of(compute: ComputeConfig, machines: Sequence[Machine]) -> TrialResources:
    """Return what a trial takes: a GPU for each rank where the cluster has any, and CPU cores for its threads.

    Where the study leaves both open, a rank has the cores per GPU of the machine that has the fewest.
    """
    ranks, rank, kind = compute.ranks_of_trial, dict[str, float](), compute.accelerator_type
    has_gpus = any(machine.get("GPU", 0.0) for machine in machines)
    wants_gpus = compute.device == "cuda" or compute.gpus_per_trial is not None or kind is not None or has_gpus
    cpus = ceil(compute.cpus_per_trial / ranks) if compute.cpus_per_trial else compute.threads or 1
    if compute.device != "cpu" and wants_gpus:
        rank["GPU"] = min(1.0, compute.gpus_per_trial or 1.0)
        if kind is not None:
            rank[f"accelerator_type:{kind}"] = A_LITTLE
        if compute.cpus_per_trial is None and compute.threads is None:
            with_gpus = (machine for machine in machines if machine.get("GPU"))
            shares = (int(one.get("CPU", 1.0) * rank["GPU"] / one["GPU"]) for one in with_gpus)
            cpus = max(1, min(shares, default=1))
    resources = TrialResources(rank={"CPU": cpus, **rank}, ranks=ranks)
    # Ranks communicate fastest on one machine; where none is large enough, or none is there yet, anywhere.
    return resources if ranks == 1 or resources.fits(machines) else replace(resources, apart=True)


def refuse_unplaceable(resources: TrialResources, machines: Sequence[Machine], asked: int | None = None) -> None:
    """Refuse a trial for which a cluster has no room at all: the search would wait for ever.

    Not where a number of workers is `asked` for: a cluster with an autoscaler grows as it is asked.

    Raises:
        ConfigurationError: there is none.
    """
    if resources.fits(machines) or asked is not None:
        return
    offered = "; ".join(
        ", ".join(f"{machine.get(name, 0.0):g} {name}" for name in resources.rank) for machine in machines
    )
    raise ConfigurationError(
        f"A trial takes {resources}, and the cluster has no room for that; its machines have {offered or 'nothing'}. "
        "Lower compute.gpus_per_trial, compute.ranks, compute.cpus_per_trial or compute.threads, or start other "
        "machines; where the cluster starts them itself, say by compute.workers how many trials to ask it for."
    )


def described(compute: ComputeConfig, machines: Sequence[Machine]) -> str:
    """Return in a sentence what a cluster offers, and how many trials have room on it.

    Raises:
        ConfigurationError: none has.
    """
    resources = resources_of(compute, machines)
    refuse_unplaceable(resources, machines)
    offers = Counter(
        ", ".join(f"{machine[name]:g} {name}" for name in KINDS if machine.get(name)) for machine in machines
    )
    offered = "; ".join(f"{count} of {offer or 'nothing'}" for offer, count in offers.items())
    return f"machines: {offered}; trials side by side: {resources.fits(machines)}, each with {resources}"
