"""Rank group: the processes that train one trial together, each with its shard of every batch. Mostly it is one.

Every rank runs the same code in lockstep and comes to the same weights. What must be agreed goes through `all_gather`;
gradients are summed apart. Rank 0 alone receives decisions, looks at the clock, writes files and evaluates. That it
evaluates alone costs the others' time, and keeps a score what it is on one rank; split by rows, running out of memory
and a metric of the user's own would have to be agreed too.

A command, such as a trial, ends on all ranks at the `all_gather` to which any rank gives `RankEnded`, whatever the
others gather: so an error on one rank is an end that all come to, and they live on. Where a rank is gone, or does not
answer, the group is lost: all its processes end, and another group takes its place.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch
from hpo.errors import error_line
from hpo.memory import is_out_of_memory
from hpo.messages import Assignment, Ending, Precision

T = TypeVar("T")

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that name the network interface over which ranks communicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """The place of a process in a rank group."""

    rank: int
    """From 0."""
    ranks: int
    """How many there are."""
    address: str
    """HOST:PORT at which rank 0 listens for the others; IPv4 or a name."""


def free_address(host: str = "127.0.0.1") -> str:
    """Return an address at which nothing listens now, on this machine, of which `host` is a name."""
    with socket.create_server((host, 0)) as found:
        return f"{host}:{found.getsockname()[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCommand:
    """To the other ranks: train this with rank 0."""

    assignment: Assignment
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCommand:
    """To the other ranks: take these few steps with rank 0."""

    hyperparameters: Hyperparameters
    steps: int
    precision: Precision


RankCommand = TrainCommand | ProbeCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnded:
    """A gathered value: the command has ended on this rank, and so on all."""

    ending: Ending
    reason: str


class EndedOnOtherRank(Exception):
    """The command has ended, because it has on another rank."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending, self.reason = ending, reason


class RankGroupLost(BaseException):
    """A rank is gone, or did not answer, and this process is of no more use: it is to end.

    No `Exception`, because whoever bears what a trial dies of must not bear this.
    """


class RankGroup:
    """A group of one rank: nothing is exchanged, and no call costs anything."""

    rank = 0
    ranks = 1

    @property
    def is_rank_0(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order; they must be picklable.

        Raises:
            EndedOnOtherRank: the command has ended on another rank.
            RankGroupLost: a rank is gone.
        """
        return [value]

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

    def shard(self, batch: Batch) -> Batch | None:
        """Return the rows of a batch that this rank trains on; None where there are too few for all ranks."""
        return batch

    def largest_shard(self, rows: int) -> int:
        """Return how many of so many rows are in the largest shard, which is what a step waits for."""
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

    def broadcast_command(self, command: RankCommand) -> None:
        """Begin a command, on rank 0."""

    def next_command(self) -> RankCommand | None:
        """Return the command that rank 0 begins next; None where it closes the group."""
        raise AssertionError("rank 0 gives the commands")

    def end(self, ending: Ending, reason: str) -> None:
        """End the command on all ranks, unless it already has."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Return a context for all of a command: it ends on all ranks where the block ends on one."""
        try:
            yield
        except Exception as error:
            self.end(Ending.INFEASIBLE if is_out_of_memory(error) else Ending.FAILED, error_line(error))
            raise
        self.end(Ending.COMPLETED, "")

    def close(self) -> None:
        """Leave; rank 0 lets the others go."""


ALONE = RankGroup()
