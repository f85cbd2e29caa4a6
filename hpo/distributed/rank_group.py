"""Rank group: the processes that train one trial together, each with its shard of every batch. Mostly it is one.

Every rank runs the same code in lockstep and comes to the same weights. What must be agreed goes through `all_gather`;
gradients are summed apart. Rank 0 alone receives decisions, looks at the clock, writes files and evaluates. That it
evaluates alone costs the others' time, and keeps a score what it is on one rank; split by rows, running out of memory
and a metric of the user's own would have to be agreed too.

A command, such as a trial, ends on all ranks at the `all_gather` to which any rank gives `RankEnded`, whatever the
others gather: so an error on one rank is an end that all come to, and they live on. Where a rank is gone, or does not
answer, the group is lost: all its processes end, and another group takes its place.
"""

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn

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


BUCKET_NUMBERS = 2**23
"""Gradients smaller than so many numbers are added up together: each sum has a price of its own."""
VALUE_BYTES, LENGTH_BYTES = 4096, 8
"""A value in one exchange, and of that its length; a longer value takes another exchange."""
LONGEST_WAIT = timedelta(days=20)
"""An `all_gather` may take as long as it takes: rank 0 waits for its next trial, or evaluates."""


@contextmanager
def _lost_if_it_breaks() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise RankGroupLost(f"A rank is gone, or does not answer: {error_line(error)}") from error


class ProcessGroup(RankGroup):
    """A rank group of several processes, of which this one is a rank."""

    def __init__(self, rank_info: RankInfo, device: torch.device, patience: timedelta) -> None:
        """Wait for the other ranks, at the address of rank 0.

        Args:
            rank_info: of this process, which is in one group at a time.
            device: where its rank trains.
            patience: for how long it waits for the others to come, and for a sum.

        Raises:
            RankGroupLost: they did not come, or nobody can listen at that address.
        """
        self.rank, self.ranks = rank_info.rank, rank_info.ranks
        self._in_command = False
        host, _, port = rank_info.address.rpartition(":")
        with _lost_if_it_breaks():
            # A socket of our own: torch's would listen to every network that the machine is in.
            listener = socket.create_server((host, int(port))).detach() if self.is_rank_0 else None
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                host, int(port), rank_info.ranks, self.is_rank_0, patience, master_listen_fd=listener
            )
            distributed.init_process_group(
                "gloo", store=store, rank=rank_info.rank, world_size=rank_info.ranks, timeout=LONGEST_WAIT
            )
            if device.type == "cuda":
                torch.cuda.set_device(device)
                # A sum that takes too long raises, as one over gloo does, and does not abort the process.
                os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
            self._sums = distributed.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=patience)
        # Held from the first on: where memory is short, it must not be the sum that runs out of it.
        self._bucket = torch.zeros(BUCKET_NUMBERS, device=device)
        self._sum(self._bucket[:1])

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks."""
        pickled = pickle.dumps(value)
        of_ranks = self._gathered(pickled, VALUE_BYTES)
        longest = max(int.from_bytes(one[:LENGTH_BYTES]) for one in of_ranks)
        if longest > VALUE_BYTES - LENGTH_BYTES:
            of_ranks = self._gathered(pickled, LENGTH_BYTES + longest)
        values = [pickle.loads(one[LENGTH_BYTES:]) for one in of_ranks]
        ends = [(rank, one) for rank, one in enumerate(values) if isinstance(one, RankEnded)]
        if ends:
            self._in_command = False
            if not isinstance(value, RankEnded):
                rank, ended = ends[0]
                raise EndedOnOtherRank(ended.ending, f"On rank {rank}: {ended.reason}")
        return values

    @_lost_if_it_breaks()
    def _gathered(self, value: bytes, size: int) -> list[bytes]:
        """Return the values of all ranks, in so many bytes each, its length first; what is longer is cut."""
        padded = (len(value).to_bytes(LENGTH_BYTES) + value)[:size].ljust(size)
        mine = torch.frombuffer(bytearray(padded), dtype=torch.uint8)
        of_ranks = [torch.empty_like(mine) for _ in range(self.ranks)]
        distributed.all_gather(of_ranks, mine)
        return [one.numpy().tobytes() for one in of_ranks]

    def shard(self, batch: Batch) -> Batch | None:
        """Return the rows of a batch that this rank trains on: none has more than the first."""
        start = self.rank * self.largest_shard(batch.rows)
        rows = np.arange(start, min(start + self.largest_shard(batch.rows), batch.rows))
        return batch.take(rows) if rows.size else None

    def all_reduce(self, loss: Tensor | None, weights: Sequence[nn.Parameter]) -> bool:
        """Add up losses and gradients, where memory sufficed on all ranks."""
        of_ranks = self.all_gather(None if loss is None else [weight.grad is not None for weight in weights])
        if loss is None or None in of_ranks:
            return False
        if any(used != of_ranks[0] for used in of_ranks):
            for weight, *used in zip(weights, *of_ranks, strict=True):
                if weight.grad is None and any(used):
                    weight.grad = torch.zeros_like(weight)
            # Had that failed here, the others would wait for a sum.
            self.all_gather(None)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for bucket in _buckets([loss, *gradients]):
            self._sum_bucket(bucket)
        return True

    def broadcast_command(self, command: RankCommand) -> None:
        """Begin a command, on rank 0."""
        self.all_gather(command)
        self._in_command = True

    def next_command(self) -> RankCommand | None:
        """Return the command that rank 0 begins next; None where it closes the group."""
        command: RankCommand | None = self.all_gather(None)[0]
        self._in_command = command is not None
        return command

    def end(self, ending: Ending, reason: str) -> None:
        """End the command on all ranks, unless it already has."""
        if self._in_command:
            self.all_gather(RankEnded(ending=ending, reason=reason))

    def close(self) -> None:
        """Leave; rank 0 lets the others go, which have no command."""
        if self.is_rank_0:
            self.all_gather(None)
        distributed.destroy_process_group()

    def _sum_bucket(self, tensors: Sequence[Tensor]) -> None:
        if len(tensors) == 1:
            self._sum(tensors[0])
            return
        together = self._bucket[: sum(tensor.numel() for tensor in tensors)]
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=together)
        self._sum(together)
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(one) for part, one in zip(parts, tensors, strict=True)])

    @_lost_if_it_breaks()
    def _sum(self, tensor: Tensor) -> None:
        distributed.all_reduce(tensor, group=self._sums)


def join(rank_info: RankInfo | None, device: torch.device, patience_seconds: float) -> RankGroup:
    """Return the rank group of a process, which all ranks join at once; `ALONE` where it is the only one."""
    if rank_info is None or rank_info.ranks == 1:
        return ALONE
    return ProcessGroup(rank_info, device, timedelta(seconds=patience_seconds))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Return tensors, in their order, in lists that fit into a bucket; one that is larger is alone."""
    bucket: list[Tensor] = []
    room = BUCKET_NUMBERS
    for tensor in tensors:
        if bucket and tensor.numel() > room:
            yield bucket
            bucket, room = [], BUCKET_NUMBERS
        bucket.append(tensor)
        room -= tensor.numel()
    if bucket:
        yield bucket
