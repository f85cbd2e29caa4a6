"""What a model scores on some rows."""

import numpy as np
import torch

from hpo.data.batching import Rows, collate, evaluation_batches
from hpo.data.tokenization import TokenizedSplit
from hpo.messages import Scores
from hpo.tasks import Task
from hpo.training.models import PretrainedModel
from hpo.training.precision import Precision

MOST_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Tokens of one batch by device type, padding counted: a CPU's cache is small, a GPU wants much at once."""
MOST_ROWS = 512


@torch.inference_mode()
def score_rows(
    model: PretrainedModel, task: Task, split: TokenizedSplit, rows: Rows | None, precision: Precision
) -> Scores:
    """Score the model as it stands, dropout off, on `rows` of a split, or on all of it where that is None."""
    chosen = np.arange(split.tokens.rows) if rows is None else rows
    batches = evaluation_batches(
        split.tokens.lengths[chosen], max_tokens=MOST_TOKENS[model.device.type], max_rows=MOST_ROWS
    )
    gathered, losses = [], []
    training = model.network.training
    model.network.eval()
    try:
        for places in batches:
            batch = collate(split, chosen[places], model.pad_id)
            logits = model.logits(batch, precision)
            gathered.append(logits)
            losses.append(task.loss(logits, batch.labels.to(model.device)) * batch.rows)
    finally:
        model.network.train(training)
    # Only here does the processor wait for the device.
    together = torch.cat(gathered).cpu()
    ordered = torch.empty_like(together)
    ordered[np.concatenate(batches)] = together
    loss = float(torch.stack(losses).double().sum()) / len(chosen)
    return task.scores(split.labels[chosen], task.probabilities(ordered), loss)
