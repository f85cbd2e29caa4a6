"""What a model scores on some rows."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from hpo.data.batching import Rows, collate, evaluation_batches
from hpo.data.tokenization import TokenizedSplit
from hpo.messages import Scores
from hpo.tasks import Task
from hpo.training.models import PretrainedModel
from hpo.training.out_of_memory import OutOfMemoryInEvaluation, is_out_of_memory, release
from hpo.training.precision import Precision

MOST_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens of one batch by device type, padding counted: a CPU's cache is small, a GPU wants much at once."""
MOST_ROWS = 512

_fitting: WeakKeyDictionary[PretrainedModel, int] = WeakKeyDictionary()
"""Tokens of one batch by model, where memory ran out at more: the next evaluation begins there."""


@torch.inference_mode()
def score_rows(
    model: PretrainedModel, task: Task, split: TokenizedSplit, rows: Rows | None, precision: Precision
) -> Scores:
    """Score the model as it stands, dropout off, on `rows` of a split, or on all of it where that is None.

    Where memory runs out, batches are halved, in later evaluations too: the scores are the same to rounding.

    Raises:
        OutOfMemoryInEvaluation: memory does not suffice for one row at a time.
    """
    chosen = np.arange(split.tokens.rows) if rows is None else rows
    lengths = split.tokens.lengths[chosen]
    while True:
        most_tokens = _fitting.get(model, MOST_TOKENS[model.device.type])
        batches = evaluation_batches(lengths, max_tokens=most_tokens, max_rows=MOST_ROWS)
        try:
            logits, loss = _logits_and_loss(model, task, split, [chosen[places] for places in batches], precision)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not in the handler: as long as the error lives, so do its frames and their tensors.
        if all(len(places) == 1 for places in batches):
            raise OutOfMemoryInEvaluation(f"Out of memory on {model.device} in evaluation, with one text at once.")
        # The first row of each is its longest. One alone cannot be halved, however long it is.
        tokens = [len(places) * int(lengths[places[0]]) for places in batches if len(places) > 1]
        _fitting[model] = max(tokens) // 2
        release(model.device)
    ordered = torch.empty_like(logits)
    ordered[np.concatenate(batches)] = logits
    return task.scores(split.labels[chosen], task.probabilities(ordered), loss)


def _logits_and_loss(
    model: PretrainedModel, task: Task, split: TokenizedSplit, batches: Sequence[Rows], precision: Precision
) -> tuple[Tensor, float]:
    """Return the logits of all rows on the CPU, in the order of the batches, and their mean loss."""
    gathered, losses = [], []
    training = model.network.training
    model.network.eval()
    try:
        for rows in batches:
            batch = collate(split, rows, model.pad_id)
            logits = model.logits(batch, precision)
            gathered.append(logits)
            losses.append(task.loss(logits, batch.labels.to(model.device)) * batch.rows)
    finally:
        model.network.train(training)
    # Only here does the processor wait for the device.
    together = torch.cat(gathered).cpu()
    return together, float(torch.stack(losses).double().sum()) / len(together)
