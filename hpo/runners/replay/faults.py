"""What goes wrong in a replay, as data: workers that die, hang or are slow, and attempts that fail."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hpo.messages import Assignment
from hpo.search.samplers import derived_seed


class ReplayFaultKind(StrEnum):
    """What happens under an attempt."""

    DIE = "die"
    """The worker's process dies, and with it all that it held."""
    FAIL = "fail"
    """The attempt ends with an error."""
    HANG = "hang"
    """The worker says nothing any more, until it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFault:
    """One thing that goes wrong, under every attempt that it names."""

    kind: ReplayFaultKind
    trial: int | None = None
    """None for any."""
    attempt: int | None = None
    """None for any."""
    worker: str | None = None
    """None for any."""
    share: float = 0.5
    """How much of the trial was trained by then, 0 to 1; an attempt that goes on from beyond it has it at once."""

    def meets(self, worker: str, assignment: Assignment) -> bool:
        """Return whether it happens under `assignment` on `worker`."""
        named = (self.worker, self.trial, self.attempt)
        actual = (worker, assignment.trial, assignment.attempt)
        return all(one is None or one == other for one, other in zip(named, actual, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFaults:
    """All that goes wrong: what a script says, and beyond it what a seed draws."""

    script: tuple[ReplayFault, ...] = ()
    """Of several that meet an attempt the first happens."""
    rates: Mapping[ReplayFaultKind, float] = field(default_factory=dict)
    """Share of the attempts that each kind happens under, at a random place; at most 1 in all."""
    seed: int = 0
    slowness: Mapping[str, float] = field(default_factory=dict)
    """Worker -> how many times as long everything takes there."""
    restart_seconds: float = 10.0
    """From a worker's death until its successor trains."""

    def under(self, worker: str, assignment: Assignment) -> ReplayFault | None:
        """Return what happens under an attempt; the same for the same attempt, whatever happened before."""
        scripted = (fault for fault in self.script if fault.meets(worker, assignment))
        return next(scripted, None) or self._drawn(assignment)

    def _drawn(self, assignment: Assignment) -> ReplayFault | None:
        chance = random.Random(derived_seed(self.seed, "mishap", assignment.trial, assignment.attempt))
        drawn, share = chance.random(), chance.random()
        for kind, rate in self.rates.items():
            if drawn < rate:
                return ReplayFault(kind=kind, share=share)
            drawn -= rate
        return None
