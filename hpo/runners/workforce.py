"""What carries assignments to workers, as the dispatch sees it: in this process, over processes, in a replay."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpo.config.hyperparameters import Hyperparameters
from hpo.messages import (
    Assignment,
    Begun,
    Capacity,
    Decision,
    Demands,
    Dimensions,
    HeldOutEvaluation,
    Outcome,
    Probe,
    Progress,
    Report,
)
from hpo.metrics.metric import Objective
from hpo.training.precision import Measurement, Precision
from hpo.training.worker import Trains


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A warning that the user should read, such as a checkpoint that could not be written."""

    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker's process has died or was killed, and with it what it held; the workforce has begun to replace it."""

    reason: str
    """Why, in a sentence."""
    machine: bool = False
    """Whether its machine is gone, as one that was preempted is: then no trial on it was the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """A worker cannot be started, or not again; it is not among the workforce's capacities any more."""

    reason: str
    """Why, in a sentence."""


Said = Begun | Report | Progress | Outcome | Note | Lost | Unfit


IsOver = Callable[[], bool]
"""Whether a search is to end, as by its deadline: then its first worker is not waited for."""


def never() -> bool:
    """Return that it is not."""
    return False


class LeadWorker(Trains, Protocol):
    """A worker that is asked before and after the search; `hpo.training.worker.Worker` is one, in this process.

    Arguments go by place: a call may be one to another process.
    """

    @property
    def objective(self) -> Objective:
        """The metric trials are compared by, resolved for these labels."""

    def facts(self) -> dict[str, str]:
        """Return what of its process a result depends on."""

    def refuse_unfit(self, demands: Demands, /) -> None:
        """Refuse what its model cannot do."""

    def cut_share(self, max_length: int, /) -> float:
        """Return the share of training texts that are cut at so many tokens."""

    def dimensions(self, max_length: int, /) -> Dimensions:
        """Return what the work of trials is counted from."""

    def measure(self, hyperparameters: Hyperparameters, most_seconds: float = math.inf, /) -> Measurement:
        """Time both precisions and choose."""

    def use(self, precision: Precision, /) -> None:
        """Compute in this precision from the next trial on."""

    def probe(self, hyperparameters: Hyperparameters, steps: int, most_seconds: float = math.inf, /) -> Probe:
        """Take a few steps and say what they cost."""

    def has_weights(self, report: Report, /) -> bool:
        """Return whether the weights of that evaluation were kept."""

    def test_evaluation(self, assignment: Assignment, /) -> HeldOutEvaluation:
        """Read the test split with a trial's kept weights."""

    def baseline(self, name: str, max_length: int, /) -> HeldOutEvaluation:
        """Train and read a baseline."""


class Workforce(Protocol):
    """Workers by name. A worker begins assignments in the order in which it was given them, as its slots are free."""

    ahead: int
    """Assignments that a worker may hold beside those it trains, so that it never waits for the next."""

    @property
    def workers(self) -> Collection[str]:
        """Names of all, those that are still starting among them; without those that were discarded or are unfit."""

    @property
    def size(self) -> int:
        """How many workers there are to be, as far as that is known."""

    @property
    def lead(self) -> LeadWorker:
        """The worker that is asked before and after the search; while the search runs it is one of the others."""

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """What may be given assignments now, by the worker's name."""

    def begin(self, precision: Precision) -> None:
        """Start all workers, to compute in `precision`."""

    def give(self, worker: str, assignment: Assignment, /) -> None:
        """Hand over an assignment, to be trained after those that the worker holds."""

    def apply(self, worker: str, decision: Decision, /) -> None:
        """Hand over a decision; about an assignment that was not begun, a pause gives it back at once."""

    def listen(self, seconds: float, /) -> Sequence[tuple[str, Said]]:
        """Return what workers have said, with their names; wait at most so long for the first of it."""

    def kill(self, worker: str, reason: str, /) -> None:
        """Kill a worker, which then says that it is `Lost`, and replace it."""

    def discard(self, worker: str, /) -> None:
        """Do without a worker from now on; what it held is not told again."""
