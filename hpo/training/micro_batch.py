"""Rows that go through the model at once: all of a batch, or fewer where memory ran out.

A step stays the step it is: its batch goes through in parts, and their gradients add up to the batch's. Only dropout
masks are drawn for other shapes, so with dropout the distribution is kept and not each number.
"""

from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters

MemoryKey = tuple[object, ...]


@dataclass(slots=True)
class MicroBatch:
    """Of one kind of trial; shared by all of that kind in a process, so that the next begins where this one came to."""

    rows: int | None = None
    """Most rows at once; None for whole batches."""

    def at_once(self, batch_rows: int) -> int:
        """Return how many rows of a batch of so many go through at once."""
        return batch_rows if self.rows is None else min(self.rows, batch_rows)

    def lower(self, rows: int | None) -> None:
        """Take at most `rows`; None for as many as now."""
        if rows is not None:
            self.rows = self.at_once(rows)

    def halve(self, rows: int) -> None:
        """Take at most half of `rows`, at which memory ran out; at least one."""
        self.rows = max(1, rows // 2)


def memory_key(hyperparameters: Hyperparameters) -> MemoryKey:
    """Return what the memory of a step depends on beside its rows; trials equal in it share a `MicroBatch`."""
    names = ("method", "max_length", "optimizer", "trained_layers", "kept_layers")
    return tuple(getattr(hyperparameters, name) for name in names)
