"""Process group: several ranks over torch.distributed; values go by gloo on every device, gradients by NCCL on GPUs."""

import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from hpo.data.batching import Batch
from hpo.distributed.rank_group import (
    ALONE,
    EndedOnOtherRank,
    RankCommand,
    RankEnded,
    RankGroup,
    RankGroupLost,
    RankInfo,
)
from hpo.errors import error_line
from hpo.messages import Ending

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
