"""Rank group: the processes that train one trial together, each with its shard of every batch; usually only one.

Every rank runs the same code in lockstep and gets the same weights. Ranks agree on values by `all_gather`; gradients
are summed separately. Only rank 0 receives decisions, reads the clock, writes files and evaluates. The other ranks wait
during an evaluation, but scores are the same as on one rank; a division by rows would also have to handle memory that
runs out on one rank, and user-defined metrics.

A command, such as a trial, ends on all ranks at the `all_gather` to which any rank passes `RankEnded`, whatever the
others pass. So after an error on one rank all ranks end the command and stay usable. If a rank is gone or does not
answer, the group is lost: all its processes end, and a new group replaces it.
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
    """Rank of a process in a rank group."""

    rank: int
    """Number of the rank, from 0."""
    ranks: int
    """Number of ranks in the group."""
    address: str
    """HOST:PORT at which rank 0 listens for the others; IPv4 or a name."""


def free_address(host: str = "127.0.0.1") -> str:
    """Return a currently free address on this machine, with `host` as its name."""
    with socket.create_server((host, 0)) as found:
        return f"{host}:{found.getsockname()[1]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCommand:
    """Command to the other ranks to train an assignment with rank 0."""

    assignment: Assignment
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCommand:
    """Command to the other ranks to take the steps of a probe with rank 0."""

    hyperparameters: Hyperparameters
    steps: int
    precision: Precision


RankCommand = TrainCommand | ProbeCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnded:
    """Gathered value of a rank on which the command has ended; it ends the command on all ranks."""

    ending: Ending
    reason: str


class EndedOnOtherRank(Exception):
    """The command has ended on another rank, and so on this one."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending, self.reason = ending, reason


class RankGroupLost(BaseException):
    """A rank is gone or did not answer, so this process must end.

    Not an `Exception`, so that handlers of a trial's errors do not catch it.
    """


class RankGroup:
    """A group of one rank, which exchanges nothing."""

    rank = 0
    ranks = 1

    @property
    def is_rank_0(self) -> bool:
        """True if this is rank 0."""
        return self.rank == 0

    def all_gather(self, value: Any) -> list[Any]:
        """Return the picklable values of all ranks, in their order.

        Raises:
            EndedOnOtherRank: the command has ended on another rank.
            RankGroupLost: a rank is gone.
        """
        return [value]

    def on_rank_0(self, make: Callable[[], T]) -> T:
        """Return the result of `make` on rank 0; other ranks do not call it."""
        made: T = self.all_gather(make() if self.is_rank_0 else None)[0]
        return made

    def in_turns(self, make: Callable[[], T]) -> T:
        """Return the result of `make` on this rank; the ranks call it one after another."""
        for turn in range(self.ranks):
            if turn == self.rank:
                made = make()
            self.all_gather(None)
        return made

    def shard(self, batch: Batch) -> Batch | None:
        """Return the rows of a batch that this rank trains on; None if there are too few for all ranks."""
        return batch

    def largest_shard(self, rows: int) -> int:
        """Return the number of rows in the largest shard, which determines the time of a step."""
        return -(-rows // self.ranks)

    def all_reduce(self, loss: Tensor | None, weights: Sequence[nn.Parameter]) -> bool:  # noqa: ARG002
        """Sum the loss and the gradients over all ranks, in place.

        Args:
            loss: share of this rank; None if its memory ran out.
            weights: weights with gradients of this rank; a weight without a gradient on all ranks gets none.

        Returns:
            true if memory sufficed on all ranks; otherwise nothing was summed.
        """
        return loss is not None

    def broadcast_command(self, command: RankCommand) -> None:
        """Begin a command on all ranks; called by rank 0."""

    def next_command(self) -> RankCommand | None:
        """Return the next command of rank 0; None if it closes the group. Called by the other ranks."""
        raise AssertionError("rank 0 gives the commands")

    def end(self, ending: Ending, reason: str) -> None:
        """End the command on all ranks, unless it already has."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Return a context for a whole command, which ends on all ranks when the block ends on one."""
        try:
            yield
        except Exception as error:
            self.end(Ending.INFEASIBLE if is_out_of_memory(error) else Ending.FAILED, error_line(error))
            raise
        self.end(Ending.COMPLETED, "")

    def close(self) -> None:
        """Leave the group; rank 0 closes it."""


ALONE = RankGroup()


BUCKET_NUMBERS = 2**23
"""Size of a bucket of gradients that are summed in one call, because each call has a fixed cost."""
VALUE_BYTES, LENGTH_BYTES = 4096, 8
"""Bytes of a value in one exchange, and of its length within these; a longer value takes a second exchange."""
LONGEST_WAIT = timedelta(days=20)
"""Timeout of `all_gather`: practically none, because rank 0 may evaluate or wait for its next trial."""


@contextmanager
def _lost_if_it_breaks() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise RankGroupLost(f"A rank is gone, or does not answer: {error_line(error)}") from error


class ProcessGroup(RankGroup):
    """A rank group of several processes, of which this one is a rank."""

    def __init__(self, rank_info: RankInfo, device: torch.device, patience: timedelta) -> None:
        """Wait for the other ranks at the address of rank 0.

        Args:
            rank_info: rank of this process, which is in one group at a time.
            device: device of this rank.
            patience: timeout for the other ranks to join, and for a sum.

        Raises:
            RankGroupLost: they did not join, or rank 0 cannot listen at that address.
        """
        self.rank, self.ranks = rank_info.rank, rank_info.ranks
        self._in_command = False
        host, _, port = rank_info.address.rpartition(":")
        with _lost_if_it_breaks():
            # Not torch's socket, which would listen on every network of the machine.
            listener = socket.create_server((host, int(port))).detach() if self.is_rank_0 else None
            store = distributed.TCPStore(  # type: ignore[attr-defined]
                host, int(port), rank_info.ranks, self.is_rank_0, patience, master_listen_fd=listener
            )
            distributed.init_process_group(
                "gloo", store=store, rank=rank_info.rank, world_size=rank_info.ranks, timeout=LONGEST_WAIT
            )
            if device.type == "cuda":
                torch.cuda.set_device(device)
                # A sum that takes too long then raises, as with gloo, instead of aborting the process.
                os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
            self._sums = distributed.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=patience)
        # Allocated at the start, so that memory does not run out during a sum.
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
        """Return the values of all ranks in `size` bytes each, with the length first; longer values are cut."""
        padded = (len(value).to_bytes(LENGTH_BYTES) + value)[:size].ljust(size)
        own = torch.frombuffer(bytearray(padded), dtype=torch.uint8)
        of_ranks = [torch.empty_like(own) for _ in range(self.ranks)]
        distributed.all_gather(of_ranks, own)
        return [one.numpy().tobytes() for one in of_ranks]

    def shard(self, batch: Batch) -> Batch | None:
        """Return the rows of a batch that this rank trains on; rank 0 has the largest shard."""
        start = self.rank * self.largest_shard(batch.rows)
        rows = np.arange(start, min(start + self.largest_shard(batch.rows), batch.rows))
        return batch.take(rows) if rows.size else None

    def all_reduce(self, loss: Tensor | None, weights: Sequence[nn.Parameter]) -> bool:
        """Sum losses and gradients if memory sufficed on all ranks."""
        of_ranks = self.all_gather(None if loss is None else [weight.grad is not None for weight in weights])
        if loss is None or None in of_ranks:
            return False
        if any(used != of_ranks[0] for used in of_ranks):
            for weight, *used in zip(weights, *of_ranks, strict=True):
                if weight.grad is None and any(used):
                    weight.grad = torch.zeros_like(weight)
            # An error above must end the command on all ranks before any of them waits for a sum.
            self.all_gather(None)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for bucket in _buckets([loss, *gradients]):
            self._sum_bucket(bucket)
        return True

    def broadcast_command(self, command: RankCommand) -> None:
        """Begin a command on all ranks; called by rank 0."""
        self.all_gather(command)
        self._in_command = True

    def next_command(self) -> RankCommand | None:
        """Return the next command of rank 0; None if it closes the group."""
        command: RankCommand | None = self.all_gather(None)[0]
        self._in_command = command is not None
        return command

    def end(self, ending: Ending, reason: str) -> None:
        """End the command on all ranks, unless it already has."""
        if self._in_command:
            self.all_gather(RankEnded(ending=ending, reason=reason))

    def close(self) -> None:
        """Leave the group; rank 0 closes it for the others, which wait for a command."""
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
    """Return the rank group of a process, after all ranks have joined; `ALONE` for a single rank."""
    if rank_info is None or rank_info.ranks == 1:
        return ALONE
    return ProcessGroup(rank_info, device, timedelta(seconds=patience_seconds))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Return tensors in order, in lists that fit into a bucket; a larger tensor has its own list."""
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
