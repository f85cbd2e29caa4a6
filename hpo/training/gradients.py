"""Gradient accumulation: a batch is trained in micro-batches by length, smaller ones if memory is short.

Micro-batches do not change a step: losses are summed over rows and divided once by the units of the whole batch, so
parts and ranks add up. Dropout masks are drawn for each part, so smaller parts change single masks, but not their
distribution.

A micro-batch is one part of a batch, or one part each of several trials that share a backbone. The parts of a trial's
batch and their masks depend only on its own rows: the trial gives the result that it would give alone, up to rounding.
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
"""Fixed cost of a forward and backward pass, in tokens, by device type."""
MOST_SHARED_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Most tokens, including padding, of a pass over several trials, by device type, if a study measures no other number.

On two cores larger passes gain nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SlotBatch:
    """A batch, or a part of one, whose gradients a trial waits for."""

    model: TrialModel
    batch: Batch
    units: int
    """Divisor of the summed losses; for a part, that of the whole batch."""


class Gradients:
    """Gradient computation of a process, and what it has learned of its memory."""

    def __init__(self, rank_group: RankGroup = ALONE, checkpointing: bool | Literal["auto"] = "auto") -> None:
        """Compute gradients with the other ranks of `rank_group`, which must be called with the same batches.

        Gradient checkpointing is on, off, or with `auto` on for trials that do not fit into memory without it.
        """
        self._rank_group, self._checkpointing = rank_group, checkpointing
        self._micro_batch: dict[MemoryKey, MicroBatch] = {}
        self.shared_tokens: int | None = None
        """Most tokens of a pass over several trials; None for the usual number of the device."""
        self._can_share_passes = True
        """True if batches of several trials can share a pass through the model, as far as is known."""
        self._slots: Slots | None = None

    def micro_batch(self, hyperparameters: Hyperparameters) -> MicroBatch:
        """Return the micro-batch size of trials of this kind: the one that an earlier trial ended with."""
        return self._micro_batch.setdefault(
            memory_key(hyperparameters), MicroBatch(is_checkpointed=self._checkpointing is True)
        )

    def of_slots(self, waiting: Sequence[SlotBatch]) -> list[Tensor | Exception]:
        """Return the result or error of `of` for the batch of each waiting trial, in shared passes if faster.

        If a shared pass fails, each trial is computed alone, so that an error ends only the trial that causes it. If it
        fails only in shared passes, and not for memory, it is logged once, and shared passes are not tried again.
        """
        models = [slot.model for slot in waiting]
        if self._slots is None or self._slots.models != models:
            self._slots = Slots(models)
        if len(waiting) == 1 or not self._can_share_passes:
            return [self._of_one(slot) for slot in waiting]
        states, device = [slot.model.random.state for slot in waiting], waiting[0].model.backbone.device
        try:
            return self._of_all(self._slots, waiting)
        except Exception as error:
            logger.debug("Batches have no gradients side by side.", exc_info=True)
            reason = None if is_out_of_memory(error) else error_line(error)
        # Outside the handler: while the error exists, so do its frames and their tensors.
        for slot, state in zip(waiting, states, strict=True):
            slot.model.forget_gradients()
            slot.model.random.state = state
        if reason is None:
            self.shared_tokens = self._most_tokens(device) // 2
            release(device)
        alone = [self._of_one(slot) for slot in waiting]
        if reason is not None and not any(isinstance(one, Exception) for one in alone):
            self._can_share_passes = False
            logger.warning("Trials go through this model one after the other, not side by side: %s", reason)
        return alone

    def of(self, model: TrialModel, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, on the device; its gradients are added to those of the trial's parameters.

        Raises:
            MemoryError: there is no room for one row at a time.
        """
        trained, micro_batch = list(model.parameters.values()), self.micro_batch(model.hyperparameters)
        shard = self._rank_group.shard(batch)
        while True:
            rows = micro_batch.at_once(self._rank_group.largest_shard(batch.rows))
            model.backbone.checkpointing.switch(micro_batch.is_checkpointed)
            loss = if_memory_suffices(partial(_of_part, model, shard, rows, batch.units))
            if self._rank_group.all_reduce(loss, trained) and loss is not None:
                return loss
            model.forget_gradients()
            if not micro_batch.shrink(rows, may_checkpoint=self._checkpointing == "auto"):
                raise MemoryError("Out of memory with one example at a time.")
            release(model.backbone.device)

    def _most_tokens(self, device: torch.device) -> int:
        return MOST_SHARED_TOKENS[device.type] if self.shared_tokens is None else self.shared_tokens

    def _of_one(self, slot: SlotBatch) -> Tensor | Exception:
        try:
            return self.of(slot.model, slot.batch)
        except Exception as error:
            # An error of a trial, whatever it is, ends only that trial.
            logger.debug("A batch has no gradients.", exc_info=True)
            return error

    def _of_all(self, slots: Slots, waiting: Sequence[SlotBatch]) -> list[Tensor | Exception]:
        """Return the mean losses of batches that are trained together."""
        device = waiting[0].model.backbone.device
        checkpointed = any(self.micro_batch(slot.model.hyperparameters).is_checkpointed for slot in waiting)
        waiting[0].model.backbone.checkpointing.switch(checkpointed)
        parts = [
            part
            for slot in waiting
            for part in _parts(slot, self.micro_batch(slot.model.hyperparameters).at_once(slot.batch.rows))
        ]
        losses: dict[TrialModel, list[Tensor]] = {slot.model: [] for slot in waiting}
        for micro_batch in micro_batches(parts, PASS_TOKENS[device.type], self._most_tokens(device)):
            for part, loss in zip(micro_batch, _passed(slots, micro_batch), strict=True):
                losses[part.model].append(loss)
        return [_summed(of_one) for of_one in losses.values()]


def micro_batches(parts: Sequence[SlotBatch], pass_tokens: int, most_tokens: int) -> list[list[SlotBatch]]:
    """Combine parts of several trials, the widest first, if their padding costs less than separate passes.

    Args:
        parts: those of each trial in order, the widest first; the order is kept.
        pass_tokens: fixed cost of a pass, in tokens.
        most_tokens: most tokens of a micro-batch of several parts, including padding.

    Returns:
        Micro-batches, none with two parts of one trial.
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
    """Return a rank's share of a batch's mean loss, with its gradients computed."""
    if part is None:
        return torch.zeros((), device=model.backbone.device)
    slots, parts = Slots([model]), _parts(SlotBatch(model=model, batch=part, units=units), rows)
    return _summed([loss for one in parts for loss in _passed(slots, [one])])


def _parts(slot: SlotBatch, rows: int) -> list[SlotBatch]:
    """Return a trial's batch in parts by length, of at most `rows` rows."""
    cost = PASS_TOKENS[slot.model.backbone.device.type]
    parts = split_by_length(slot.batch.lengths, pass_tokens=cost, most_rows=rows)
    return [slot] if len(parts) == 1 else [replace(slot, batch=slot.batch.take(part)) for part in parts]


def _passed(slots: Slots, parts: Sequence[SlotBatch]) -> list[Tensor]:
    """Add the gradients of each part's loss, the sum over its rows divided by the units, and return these losses."""
    losses = []
    for one, logits in zip(parts, slots.logits([(one.model, one.batch) for one in parts]), strict=True):
        targets = one.model.backbone.placed(one.batch.targets)
        losses.append(one.model.criterion(logits, targets).sum() / one.units)
    torch.autograd.backward(losses)
    return [loss.detach() for loss in losses]


def _summed(losses: Sequence[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).sum()
