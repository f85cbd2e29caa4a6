"""Evaluation: outputs and predictions of a model for some rows, in batches that fit into memory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import Batch, Rows, collate, evaluation_batches
from hpo.data.tokenization import TokenizedSplit
from hpo.memory import OutOfMemoryInEvaluation, if_memory_suffices, release
from hpo.messages import Precision
from hpo.metrics.metric import Predictions
from hpo.model.backbone import Backbone
from hpo.tasks.protocol import Task

MOST_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens of a batch, including padding, by device type: a CPU has small caches, a GPU needs large batches."""
MOST_ROWS = 512
REPORTED = Hyperparameters()
"""Hyperparameters of the reported loss: no label smoothing, all classes alike."""

Check = Callable[[], None]
"""Callback before each batch; an exception from it ends the evaluation."""


def predictions(
    model: Backbone, task: Task[Any], split: TokenizedSplit, rows: Rows | None, precision: Precision, check: Check
) -> Predictions:
    """Predict `rows` of a split, or all of it if None, with the current weights and without dropout.

    Raises:
        OutOfMemoryInEvaluation: memory does not suffice for one row at a time.
    """
    chosen = np.arange(split.tokens.rows) if rows is None else rows

    def ask(batch: Batch) -> Tensor:
        check()
        return model.logits(batch, precision)

    found = outputs(model, split, chosen, ask)
    targets = split.targets[chosen]
    # In float64, like the predictions.
    losses = task.criterion(REPORTED, found.device)(found.double(), torch.from_numpy(targets))
    answers: Predictions = task.with_targets(targets, task.predictions(found), float(losses.mean()))
    return answers


@torch.no_grad()  # Tensors that a module caches in inference mode cannot be used in autograd.
def outputs(model: Backbone, split: TokenizedSplit, rows: Rows, ask: Callable[[Batch], Tensor]) -> Tensor:
    """Return the results of `ask` for batches of these rows, without dropout, on the CPU, in order; shape (rows, ...).

    If memory runs out, batches are halved, in later evaluations too; the outputs are equal up to rounding.

    Raises:
        OutOfMemoryInEvaluation: memory does not suffice for one row at a time.
    """
    lengths = split.tokens.lengths[rows]
    while True:
        most_tokens = model.evaluation_tokens or MOST_TOKENS[model.device.type]
        batches = evaluation_batches(lengths, max_tokens=most_tokens, max_rows=MOST_ROWS)
        gathered = if_memory_suffices(partial(_gathered, model, split, [rows[places] for places in batches], ask))
        if gathered is not None:
            break
        if all(len(places) == 1 for places in batches):
            raise OutOfMemoryInEvaluation(f"Out of memory on {model.device} in evaluation, with one example at a time.")
        # The first row of each batch is its longest. A single row cannot be halved, however long it is.
        tokens = [len(places) * int(lengths[places[0]]) for places in batches if len(places) > 1]
        model.evaluation_tokens = max(tokens) // 2
        release(model.device)
    ordered = torch.empty_like(gathered)
    ordered[np.concatenate(batches)] = gathered
    return ordered


def _gathered(
    model: Backbone, split: TokenizedSplit, batches: Sequence[Rows], ask: Callable[[Batch], Tensor]
) -> Tensor:
    """Return the results of all batches, concatenated, on the CPU."""
    modes = [(module, module.training) for module in model.network.modules()]
    model.network.eval()
    try:
        answered = [ask(collate(split, rows, model.pad_id)) for rows in batches]
    finally:
        for module, training in modes:
            module.training = training
    # The only point at which the processor waits for the device.
    return torch.cat(answered).cpu()
