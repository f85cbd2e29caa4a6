"""Evaluation: what a model says of some rows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, Rows, collate, evaluation_batches
from hpo.data.tokenization import TokenizedSplit
from hpo.metrics.metric import Predictions
from hpo.model.backbone import Backbone
from hpo.tasks.protocol import Task
from hpo.training.memory import OutOfMemoryInEvaluation, release, where_memory_suffices
from hpo.training.precision import Precision

MOST_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens of one batch by device type, padding counted: a CPU's cache is small, a GPU wants much at once."""
MOST_ROWS = 512
REPORTED = Hyperparameters()
"""Under which the loss that is reported is computed: no label smoothing, all classes alike."""

Check = Callable[[], None]

_fitting: WeakKeyDictionary[Backbone, int] = WeakKeyDictionary()
"""Tokens of one batch by model, where memory ran out at more: the next evaluation begins there."""


def no_check() -> None:
    """Let an evaluation go on."""


def predictions(
    model: Backbone, task: Task[Any], split: TokenizedSplit, rows: Rows | None, precision: Precision, check: Check
) -> Predictions:
    """Ask the model as it stands, dropout off, about `rows` of a split, or about all of it where that is None.

    Before each batch `check` is called; what it raises ends the evaluation.

    Raises:
        OutOfMemoryInEvaluation: memory does not suffice for one row at a time.
    """
    chosen = np.arange(split.tokens.rows) if rows is None else rows

    def ask(batch: Batch) -> Tensor:
        check()
        return model.logits(batch, precision)

    outputs = answers(model, split, chosen, ask)
    targets = split.targets[chosen]
    # In float64, as the predictions are.
    losses = task.criterion(REPORTED, outputs.device)(outputs.double(), torch.from_numpy(targets))
    found: Predictions = task.with_targets(targets, task.predictions(outputs), float(losses.mean()))
    return found


@torch.no_grad()  # Tensors that a module caches in inference mode cannot be used in autograd.
def answers(model: Backbone, split: TokenizedSplit, rows: Rows, ask: Callable[[Batch], Tensor]) -> Tensor:
    """Return what `ask` gives for batches of these rows, dropout off, on the CPU in their order; shape (rows, ...).

    Where memory runs out, batches are halved, in later evaluations too: the answers are the same to rounding.

    Raises:
        OutOfMemoryInEvaluation: memory does not suffice for one row at a time.
    """
    lengths = split.tokens.lengths[rows]
    while True:
        most_tokens = _fitting.get(model, MOST_TOKENS[model.device.type])
        batches = evaluation_batches(lengths, max_tokens=most_tokens, max_rows=MOST_ROWS)
        gathered = where_memory_suffices(partial(_gathered, model, split, [rows[places] for places in batches], ask))
        if gathered is not None:
            break
        if all(len(places) == 1 for places in batches):
            raise OutOfMemoryInEvaluation(f"Out of memory on {model.device} in evaluation, with one example at a time.")
        # The first row of each is its longest. One alone cannot be halved, however long it is.
        tokens = [len(places) * int(lengths[places[0]]) for places in batches if len(places) > 1]
        _fitting[model] = max(tokens) // 2
        release(model.device)
    ordered = torch.empty_like(gathered)
    ordered[np.concatenate(batches)] = gathered
    return ordered


def _gathered(
    model: Backbone, split: TokenizedSplit, batches: Sequence[Rows], ask: Callable[[Batch], Tensor]
) -> Tensor:
    """Return the answers to all batches, one after the other, on the CPU."""
    modes = [(module, module.training) for module in model.network.modules()]
    model.network.eval()
    try:
        answered = [ask(collate(split, rows, model.pad_id)) for rows in batches]
    finally:
        for module, training in modes:
            module.training = training
    # Only here does the processor wait for the device.
    return torch.cat(answered).cpu()
