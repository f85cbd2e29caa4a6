"""A gang: the ranks that train one trial together, processes each with its part of every batch. Mostly it is one.

Every rank runs the same code in lockstep and comes to the same weights. What must be agreed is said at a *meet*, where
each rank says a word and hears those of all; gradients are added up apart. Rank 0 leads: it alone hears decisions,
looks at the clock, writes files and evaluates. That it evaluates alone costs the others' time, and keeps a score what
it is on one rank; split by rows, running out of memory and a metric of the user's own would have to be agreed too.

A task, such as a trial, ends for all at the meet at which any rank says that it has `Ended`, whatever the others meet
for: so an error on one rank is an end that all come to, and they live on. Where a rank is gone, or does not answer, the
gang is lost: all its processes end, and another gang takes its place.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch
from hpo.errors import HpoError
from hpo.messages import Assignment, Ending
from hpo.training.memory import is_out_of_memory
from hpo.training.precision import Precision

LONGEST_REASON = 300
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """The place of a process in a gang."""

    rank: int
    """From 0; rank 0 leads."""
    ranks: int
    """How many there are."""
    address: str
    """HOST:PORT at which rank 0 listens for the others; IPv4 or a name."""


def free_address(host: str = "127.0.0.1") -> str:
    """Return an address at which nothing listens now, on this machine, of which `host` is a name."""
    with socket.create_server((host, 0)) as found:
        return f"{host}:{found.getsockname()[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """To the other ranks: train this with me."""

    assignment: Assignment
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """To the other ranks: take these few steps with me."""

    hyperparameters: Hyperparameters
    steps: int
    precision: Precision


Task = Training | Probing


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A word: the task is over on this rank, and so on all."""

    ending: Ending
    reason: str


class EndedElsewhere(Exception):
    """The task is over, because it is on another rank."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending, self.reason = ending, reason


class RankGroupLost(BaseException):
    """A rank is gone, or did not answer, and this process is of no more use: it is to end.

    No `Exception`, because whoever bears what a trial dies of must not bear this.
    """


class RankGroup:
    """The gang of one, which has nobody to ask: no word of it costs anything."""

    rank = 0
    ranks = 1

    @property
    def is_rank_0(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def all_gather(self, word: Any) -> list[Any]:
        """Say a word, of what can be pickled, and return those of all ranks, in their order.

        Raises:
            EndedElsewhere: the task is over on another rank.
            GangLost: a rank is gone.
        """
        return [word]

    def on_rank_0(self, make: Callable[[], T]) -> T:
        """Return what `make` returns on rank 0, where alone it is called."""
        made: T = self.all_gather(make() if self.is_rank_0 else None)[0]
        return made

    def in_turns(self, make: Callable[[], T]) -> T:
        """Return what `make` returns here; no rank calls it before those ahead of it are done."""
        for turn in range(self.ranks):
            if turn == self.rank:
                made = make()
            self.all_gather(None)
        return made

    def part(self, batch: Batch) -> Batch | None:
        """Return the rows of a batch that this rank trains on; None where there are too few for all ranks."""
        return batch

    def largest_shard(self, rows: int) -> int:
        """Return how many of so many rows are in the largest part, which is what a step waits for."""
        return -(-rows // self.ranks)

    def all_reduce(self, loss: Tensor | None, weights: Sequence[nn.Parameter]) -> bool:  # noqa: ARG002
        """Add up, over the ranks and in place, their shares of a loss and of gradients.

        Args:
            loss: this rank's; None where memory ran out.
            weights: of which it has gradients; a weight without one on any rank is left without.

        Returns:
            whether memory sufficed on all ranks; otherwise nothing was added.
        """
        return loss is not None

    def broadcast_command(self, task: Task) -> None:
        """Begin a task, on rank 0."""

    def hear(self) -> Task | None:
        """Return the task that rank 0 begins next; None where it closes the gang."""
        raise AssertionError("rank 0 is told nothing")

    def end(self, ending: Ending, reason: str) -> None:
        """Say that the task is over here, unless it is already over for all."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Return a context for all of a task: it is over for all ranks where the block ends on one."""
        try:
            yield
        except Exception as error:
            self.end(Ending.INFEASIBLE if is_out_of_memory(error) else Ending.FAILED, told_of(error))
            raise
        self.end(Ending.COMPLETED, "")

    def close(self) -> None:
        """Leave; rank 0 lets the others go."""


ALONE = RankGroup()


def told_of(error: Exception) -> str:
    """Return what is told of an error, in one line."""
    told = str(error) if isinstance(error, HpoError) else f"{type(error).__name__}: {error}"
    return " ".join(told.split())[:LONGEST_REASON]
