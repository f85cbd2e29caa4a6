"""Replay with faults: workers that die or hang, attempts that fail, and assignments that wait on a worker."""

import math
import random
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hpo.messages import Action, Assignment, Decision, Ending
from hpo.runners.replay.curves import CurveSource
from hpo.runners.replay.worker_pool import ReplayedAttempt, ReplayWorkerPool, VirtualClock, is_about
from hpo.runners.worker_pool import WorkerLost
from hpo.search.samplers import derived_seed


class FaultKind(StrEnum):
    """What happens to an attempt."""

    DIE = "die"
    """The worker's process dies, and with it all that it held."""
    FAIL = "fail"
    """The attempt ends with an error."""
    HANG = "hang"
    """The worker sends nothing any more, until it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFault:
    """One fault, in every attempt that it names; None names any."""

    kind: FaultKind
    trial: int | None = None
    attempt: int | None = None
    worker: str | None = None
    share: float = 0.5
    """How much of the trial was trained by then, 0 to 1."""

    def meets(self, worker: str, assignment: Assignment) -> bool:
        """Return whether it happens in `assignment` on `worker`."""
        named = (self.worker, self.trial, self.attempt)
        actual = (worker, assignment.trial, assignment.attempt)
        return all(one is None or one == other for one, other in zip(named, actual, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayFaults:
    """All faults: those of a script, and beyond it what a seed draws."""

    script: tuple[ReplayFault, ...] = ()
    """Of several that meet an attempt the first happens."""
    rates: Mapping[FaultKind, float] = field(default_factory=dict)
    """Share of the attempts in which each kind happens, at a random place; at most 1 in all."""
    seed: int = 0

    def of(self, worker: str, assignment: Assignment) -> ReplayFault | None:
        """Return the fault of an attempt; the same for the same attempt, whatever happened before."""
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


class FaultyAttempt(ReplayedAttempt):
    """An attempt that a fault may meet."""

    fault: ReplayFault | None = None

    @property
    def fault_at(self) -> float:
        return math.inf if self.fault is None else self.began + self.fault.share * self._curve.seconds

    @property
    def due(self) -> float:
        due = super().due
        if self.fault is None or due < self.fault_at:
            return due
        return math.inf if self.fault.kind is FaultKind.HANG else self.fault_at


class FaultyWorkerPool(ReplayWorkerPool):
    """Workers with faults; one that died is replaced at once. Each holds `prefetch` assignments beside its own."""

    def __init__(
        self,
        workers: int,
        source: CurveSource,
        clock: VirtualClock,
        *,
        prefetch: int = 1,
        faults: ReplayFaults | None = None,
        metric: str = "score",
        progress_every: float = 600.0,
    ) -> None:
        super().__init__(workers, source, clock, metric=metric, progress_every=progress_every)
        self.prefetch, self._faults = prefetch, faults or ReplayFaults()
        self._waiting: defaultdict[str, deque[Assignment]] = defaultdict(deque)

    def give(self, worker: str, assignment: Assignment) -> None:
        if self._training[worker] is None:
            super().give(worker, assignment)
            return
        self._waiting[worker].append(assignment)
        assert len(self._waiting[worker]) <= self.prefetch, "a worker holds no more than it may"

    def apply(self, worker: str, decision: Decision) -> None:
        super().apply(worker, decision)
        waiting = self._waiting[worker]
        for assignment in [one for one in waiting if is_about(decision, one)]:
            if decision.action is not Action.CONTINUE:
                waiting.remove(assignment)
                ending = Ending.PRUNED if decision.action is Action.STOP else Ending.PAUSED
                self._messages.append((worker, assignment.ended(ending, "It was not begun.")))

    def kill(self, worker: str, reason: str) -> None:
        self._waiting.pop(worker, None)
        self._free(worker)
        self._messages.append((worker, WorkerLost(reason=reason)))

    def discard(self, worker: str) -> None:
        if worker in self._training:
            self._waiting.pop(worker, None)
            self._free(worker)
            del self._training[worker], self._capacities[worker]
            self._messages = [(name, message) for name, message in self._messages if name != worker]

    def _attempt(self, worker: str, assignment: Assignment) -> FaultyAttempt:
        attempt = FaultyAttempt(
            assignment, self._source.curve(assignment), began=self._clock(), progress_every=self._progress_every,
            metric=self._metric,
        )  # fmt: skip
        attempt.fault = self._faults.of(worker, assignment)
        return attempt

    def _advance(self, name: str) -> None:
        attempt = self._training[name]
        assert isinstance(attempt, FaultyAttempt)
        if self._clock() < attempt.fault_at:
            super()._advance(name)
        elif attempt.fault and attempt.fault.kind is FaultKind.DIE:
            self.kill(name, "The process died.")
        else:
            seconds = self._clock() - attempt.began
            self._messages.append((name, attempt.assignment.ended(Ending.FAILED, "An error was scripted.", seconds)))
            self._free(name)

    def _free(self, name: str) -> None:
        super()._free(name)
        if self._waiting[name]:
            super().give(name, self._waiting[name].popleft())
