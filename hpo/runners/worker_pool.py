"""Worker pool: the workers that train what the dispatch assigns, in this process, in others, or in a replay."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hpo.messages import Assignment, Begun, Capacity, Decision, Outcome, Progress, Report, WorkerSettings
from hpo.training.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A warning that the user should read, such as a checkpoint that could not be written."""

    sentence: str


class LossCause(StrEnum):
    """Reason that a worker is lost."""

    PROCESS = "process"
    """Its process died or was killed, possibly by the trial."""
    MACHINE = "machine"
    """Its machine is gone, for example preempted; no trial was the cause."""
    UNUSABLE = "unusable"
    """It cannot be opened or reopened, and is not replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """A worker is lost with its assignments; it is replaced unless it is unusable."""

    reason: str
    """Explanation in a sentence."""
    cause: LossCause = LossCause.PROCESS


WorkerMessage = Begun | Report | Progress | Outcome | Note | WorkerLost


class Workers(Protocol):
    """Workers by name, as the dispatch sees them. Each begins assignments in order, as its slots become free."""

    prefetch: int
    """Number of assignments that a worker may queue besides those it trains, so that it never waits for the next."""

    @property
    def workers(self) -> Collection[str]:
        """Names of all workers, including those that are starting; without those that are discarded or unusable."""

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """Capacities that may get assignments now, by the worker's name."""

    def give(self, worker: str, assignment: Assignment, /) -> None:
        """Pass an assignment to a worker, to be trained after those that it holds."""

    def apply(self, worker: str, decision: Decision, /) -> None:
        """Pass on a decision; one that ends an assignment which has not begun returns it at once."""

    def listen(self, seconds: float, /) -> Sequence[tuple[str, WorkerMessage]]:
        """Return the messages of workers, with their names; wait at most that many seconds for the first."""

    def kill(self, worker: str, reason: str, /) -> None:
        """Kill a worker, which is then reported as `WorkerLost`, and replace it."""

    def discard(self, worker: str, /) -> None:
        """Stop using a worker; its assignments are not reported again."""


class WorkerPool(Workers, Protocol):
    """The workers of a search, with one that can be called before and after trials are trained."""

    @property
    def size(self) -> int:
        """Expected number of workers, as far as known."""

    @property
    def lead(self) -> Worker:
        """The worker that is called; its methods take positional arguments only, as it may be in another process."""

    def begin(self, settings: WorkerSettings) -> None:
        """Start all workers, with these settings."""
