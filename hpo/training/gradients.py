"""Gradient accumulation: a batch goes through in micro-batches by length, smaller ones where memory is short.

A step stays the step it is: losses are summed over rows and divided once by the units of the whole batch, so parts and
ranks add up. Dropout masks are drawn part by part, so under smaller parts their distribution is kept, not each number.

A micro-batch is one part, or a part of each of several trials that share a backbone. Which parts a trial's batch has
and which masks are drawn for them, depends on its own rows alone: it is trained as if it were alone, to rounding.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, split_by_length
from hpo.distributed.rank_group import ALONE, RankGroup
from hpo.errors import error_line
from hpo.memory import MemoryKey, MicroBatch, if_memory_suffices, is_out_of_memory, memory_key, release
from hpo.model.trial_model import Slots, TrialModel

logger = logging.getLogger(__name__)

PASS_TOKENS = {"cpu": 128, "cuda": 8192}
"""What a forward and backward pass costs beside its tokens, in tokens, by device type."""
MOST_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens from which on nothing is gained by more of them, by device type: no more go side by side."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotBatch:
    """A batch, or a part of one, that a trial waits for the gradients of."""

    model: TrialModel
    batch: Batch
    units: int
    """What the sum of its losses is divided by: of a part those of its whole batch."""


class Gradients:
    """What a process computes gradients with, and what it has learned of its memory."""

    def __init__(self, rank_group: RankGroup = ALONE, checkpointing: bool | Literal["auto"] = "auto") -> None:
        """Compute them together with the other ranks of `rank_group`, which are to be asked for the same at once.

        Gradient checkpointing is on, off, or with `auto` on for trials that memory does not suffice for without.
        """
        self._rank_group, self._checkpointing = rank_group, checkpointing
        self._micro_batch: dict[MemoryKey, MicroBatch] = {}
        self._most_tokens = dict(MOST_TOKENS)
        self._goes_together = True
        """Whether batches of several trials can go through the model side by side, as far as is known."""
        self._slots: Slots | None = None

    def micro_batch(self, hyperparameters: Hyperparameters) -> MicroBatch:
        """Return how many rows at once are taken in trials of this kind: what an earlier one came to."""
        return self._micro_batch.setdefault(
            memory_key(hyperparameters), MicroBatch(is_checkpointed=self._checkpointing is True)
        )

    def of_slots(self, waiting: Sequence[SlotBatch]) -> list[Tensor | Exception]:
        """Return what `of` returns or raises for the batch of each trial that waits, side by side where that pays.

        Where that fails, each is asked for alone, so that it is its own trial's end. What fails side by side alone, and
        not for memory, would always: it is logged once, and not tried again.
        """
        models = [slot.model for slot in waiting]
        if self._slots is None or self._slots.models != models:
            self._slots = Slots(models)
        if len(waiting) == 1 or not self._goes_together:
            return [self._of_one(slot) for slot in waiting]
        states, device = [slot.model.random.state for slot in waiting], waiting[0].model.backbone.device
        try:
            return self._of_all(self._slots, waiting)
        except Exception as error:
            logger.debug("Batches have no gradients side by side.", exc_info=True)
            reason = None if is_out_of_memory(error) else error_line(error)
        # Not in the handler: as long as the error lives, so do its frames and their tensors.
        for slot, state in zip(waiting, states, strict=True):
            slot.model.forget_gradients()
            slot.model.random.state = state
        if reason is None:
            self._most_tokens[device.type] //= 2
            release(device)
        alone = [self._of_one(slot) for slot in waiting]
        if reason is not None and not any(isinstance(one, Exception) for one in alone):
            self._goes_together = False
            logger.warning("Trials go through this model one after the other, not side by side: %s", reason)
        return alone

    def of(self, model: TrialModel, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, on the device, its gradients added to those of the trial's parameters.

        Raises:
            MemoryError: there is no room for one row at a time.
        """
        trained, micro_batch = list(model.parameters.values()), self.micro_batch(model.hyperparameters)
        mine = self._rank_group.shard(batch)
        while True:
            rows = micro_batch.at_once(self._rank_group.largest_shard(batch.rows))
            model.backbone.checkpointing.switch(micro_batch.is_checkpointed)
            loss = if_memory_suffices(partial(_of_part, model, mine, rows, batch.units))
            if self._rank_group.all_reduce(loss, trained) and loss is not None:
                return loss
            model.forget_gradients()
            if not micro_batch.shrink(rows, may_checkpoint=self._checkpointing == "auto"):
                raise MemoryError("Out of memory with one example at a time.")
            release(model.backbone.device)

    def _of_one(self, slot: SlotBatch) -> Tensor | Exception:
        try:
            return self.of(slot.model, slot.batch)
        except Exception as error:
            # Whatever a trial dies of is its own end.
            logger.debug("A batch has no gradients.", exc_info=True)
            return error

    def _of_all(self, slots: Slots, waiting: Sequence[SlotBatch]) -> list[Tensor | Exception]:
        """Return the mean losses of batches that go through side by side."""
        device = waiting[0].model.backbone.device
        checkpointed = any(self.micro_batch(slot.model.hyperparameters).is_checkpointed for slot in waiting)
        waiting[0].model.backbone.checkpointing.switch(checkpointed)
        parts = [
            part
            for slot in waiting
            for part in _parts(slot, self.micro_batch(slot.model.hyperparameters).at_once(slot.batch.rows))
        ]
        losses: dict[TrialModel, list[Tensor]] = {slot.model: [] for slot in waiting}
        for micro_batch in micro_batches(parts, PASS_TOKENS[device.type], self._most_tokens[device.type]):
            for part, loss in zip(micro_batch, _passed(slots, micro_batch), strict=True):
                losses[part.model].append(loss)
        return [_summed(of_one) for of_one in losses.values()]


def micro_batches(parts: Sequence[SlotBatch], pass_tokens: int, most_tokens: int) -> list[list[SlotBatch]]:
    """Put parts of several trials together, the widest first, where their padding costs less than a pass of its own.

    Args:
        parts: those of a trial in their order, which is kept, the widest first.
        pass_tokens: what a pass of any size costs, in tokens.
        most_tokens: of a micro-batch of several parts, padding counted.

    Returns:
        Micro-batches, in none of which a trial has two parts.
    """
    made: list[list[SlotBatch]] = []
    for part in sorted(parts, key=lambda part: -part.batch.width):
        last = made[-1] if made else []
        width, rows = (last[0].batch.width, sum(one.batch.rows for one in last) + part.batch.rows) if last else (0, 0)
        pays = (width - part.batch.width) * part.batch.rows < pass_tokens and width * rows <= most_tokens
        if last and pays and all(one.model is not part.model for one in last):
            last.append(part)
        else:
            made.append([part])
    return made


def _of_part(model: TrialModel, part: Batch | None, rows: int, units: int) -> Tensor:
    """Return a rank's share of a batch's mean loss, its gradients ready."""
    if part is None:
        return torch.zeros((), device=model.backbone.device)
    slots, parts = Slots([model]), _parts(SlotBatch(model=model, batch=part, units=units), rows)
    return _summed([loss for one in parts for loss in _passed(slots, [one])])


def _parts(slot: SlotBatch, rows: int) -> list[SlotBatch]:
    """Return a trial's batch in its parts by length, none of more `rows`."""
    cost = PASS_TOKENS[slot.model.backbone.device.type]
    parts = split_by_length(slot.batch.lengths, pass_tokens=cost, most_rows=rows)
    return [slot] if len(parts) == 1 else [replace(slot, batch=slot.batch.take(part)) for part in parts]


def _passed(slots: Slots, parts: Sequence[SlotBatch]) -> list[Tensor]:
    """Add the gradients of each part's loss, the sum of its rows' over its units, and return these losses."""
    losses = []
    for one, logits in zip(parts, slots.logits([(one.model, one.batch) for one in parts]), strict=True):
        targets = one.model.backbone.placed(one.batch.targets)
        losses.append(one.model.criterion(logits, targets).sum() / one.units)
    torch.autograd.backward(losses)
    return [loss.detach() for loss in losses]


def _summed(losses: Sequence[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()
