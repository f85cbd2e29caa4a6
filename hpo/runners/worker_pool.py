"""Worker pool: the workers that train what the dispatch assigns, in this process, in others, or in a replay."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hpo.messages import Assignment, Begun, Capacity, Decision, Outcome, Precision, Progress, Report
from hpo.training.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A warning that the user should read, such as a checkpoint that could not be written."""

    sentence: str


class LossCause(StrEnum):
    """Reason that a worker is lost."""

    PROCESS = "process"
    """Its process died or was killed; what it trained may be the cause."""
    MACHINE = "machine"
    """Its machine is gone, as one that was preempted: no trial on it was the cause."""
    UNUSABLE = "unusable"
    """It cannot be opened, or not again, and is not replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A worker is lost with its assignments; it is replaced unless it is unusable."""

    reason: str
    """In a sentence."""
    cause: LossCause = LossCause.PROCESS


WorkerMessage = Begun | Report | Progress | Outcome | Note | WorkerLost


class Workers(Protocol):
    """Workers by name, as the dispatch sees them. Each begins assignments in their order, as its slots are free."""

    prefetch: int
    """Assignments that a worker may queue beside those it trains, so that it never waits for the next."""

    @property
    def workers(self) -> Collection[str]:
        """Names of all, those that are still starting among them; without those that are discarded or unusable."""

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """What may be given assignments now, by the worker's name."""

    def give(self, worker: str, assignment: Assignment, /) -> None:
        """Hand over an assignment, to be trained after those that the worker holds."""

    def apply(self, worker: str, decision: Decision, /) -> None:
        """Hand over a decision; one that ends an assignment which is not begun gives it back at once."""

    def listen(self, seconds: float, /) -> Sequence[tuple[str, WorkerMessage]]:
        """Return the messages of workers, with their names; wait at most so long for the first."""

    def kill(self, worker: str, reason: str, /) -> None:
        """Kill a worker, which is then told as `WorkerLost`, and replace it."""

    def discard(self, worker: str, /) -> None:
        """Use a worker no longer; its assignments are not reported again."""


class WorkerPool(Workers, Protocol):
    """The workers of a search, which calls one of them before and after trials are trained."""

    @property
    def size(self) -> int:
        """How many workers there are to be, as far as that is known."""

    @property
    def lead(self) -> Worker:
        """The worker that is called; its methods take positional arguments alone, as it may be in another process."""

    def begin(self, precision: Precision, slots: int = 1) -> None:
        """Start all workers, to compute in `precision` in so many slots."""
