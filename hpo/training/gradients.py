"""Gradients of a batch: forward and backward passes over its parts by length, smaller ones where memory is short.

A step stays the step it is: losses are summed over rows and divided once by the units of the whole batch, so parts and
ranks add up. Dropout masks are drawn part by part, so under smaller parts their distribution is kept, not each number.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, parts_by_length
from hpo.training.gang import ALONE, Gang
from hpo.training.out_of_memory import is_out_of_memory, release
from hpo.training.passes import MemoryKey, Passes, memory_key
from hpo.training.trial_model import TrialModel

logger = logging.getLogger(__name__)

PASS_TOKENS = {"cpu": 128, "cuda": 8192}
"""What a forward and backward pass costs beside its tokens, in tokens, by device type."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotBatch:
    """A batch that a trial waits for the gradients of."""

    model: TrialModel
    batch: Batch


class Gradients:
    """What a process computes gradients with, and what it has learned of its memory."""

    def __init__(self, gang: Gang = ALONE) -> None:
        """Compute them together with the other ranks of `gang`, which are to be asked for the same at once."""
        self._gang = gang
        self._passes: dict[MemoryKey, Passes] = {}

    def passes(self, hyperparameters: Hyperparameters) -> Passes:
        """Return how many rows at once are taken in trials of this kind: what an earlier one came to."""
        return self._passes.setdefault(memory_key(hyperparameters), Passes())

    def of_slots(self, waiting: Sequence[SlotBatch]) -> list[Tensor | Exception]:
        """Return what `of` returns or raises for the batch of each trial that waits."""
        found: list[Tensor | Exception] = []
        for slot in waiting:
            try:
                found.append(self.of(slot.model, slot.batch))
            except Exception as error:
                # Whatever a trial dies of is its own end.
                logger.debug("A batch has no gradients.", exc_info=True)
                found.append(error)
        return found

    def of(self, model: TrialModel, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, on the device, its gradients added to those of the trial's parameters.

        Raises:
            MemoryError: there is no room for one row at a time.
        """
        trained, passes = list(model.parameters.values()), self.passes(model.hyperparameters)
        mine = self._gang.part(batch)
        while True:
            rows = passes.at_once(self._gang.widest(batch.rows))
            loss = _where_memory_suffices(model, mine, rows, batch.units)
            if self._gang.add_up(loss, trained) and loss is not None:
                return loss
            if rows == 1:
                raise MemoryError("Out of memory with one text at once.")
            model.forget_gradients()
            passes.halve(rows)
            release(model.backbone.device)


def _where_memory_suffices(model: TrialModel, part: Batch | None, rows: int, units: int) -> Tensor | None:
    """Return a rank's share of a batch's mean loss, its gradients ready; None where memory runs out."""
    if part is None:
        return torch.zeros((), device=model.backbone.device)
    try:
        return _in_parts(model, part, rows, units)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Not in the handler: as long as the error lives, so do its frames and their tensors.
    return None


def _in_parts(model: TrialModel, batch: Batch, rows: int, units: int) -> Tensor:
    """Return the sum of these rows' losses over `units`, its gradients ready; part by part, none of more `rows`."""
    parts = parts_by_length(batch.lengths, pass_tokens=PASS_TOKENS[model.backbone.device.type], most_rows=rows)
    with model.random:
        if len(parts) == 1:
            return _passed(model, batch, units)
        return torch.stack([_passed(model, batch.take(part), units) for part in parts]).sum()


def _passed(model: TrialModel, batch: Batch, units: int) -> Tensor:
    """Add the gradients of the sum of these rows' losses over `units`, and return it."""
    logits = model.backbone.logits(batch, model.precision)
    targets = batch.targets.to(model.backbone.device, non_blocking=True)
    loss = model.criterion(logits, targets).sum() / units
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()
