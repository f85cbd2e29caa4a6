"""The precision that a study's trials compute in: what a few of its own training examples say."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import collate
from hpo.data.stratify import stratified_sample
from hpo.data.tokenization import TokenizedSplit
from hpo.model.trial_model import TrialModel
from hpo.training.context import TrainingContext
from hpo.training.evaluation import REPORTED
from hpo.training.memory import where_memory_suffices
from hpo.training.precision import Measurement, Precision, has_bf16, measure, unmeasured

MEASURED_ROWS = 16
LEAST_ROWS = 4
"""Rows on which a time says something of a batch."""
PASSES = 4
"""Of one precision over the rows, were one of bf16 as slow: the first and three rounds."""


def measured_precision(
    context: TrainingContext, hyperparameters: Hyperparameters, most_seconds: float = math.inf
) -> Measurement:
    """Time training in both precisions, on fewer rows where memory is short, and choose.

    Where not even one row fits, there is too little time, or the device has no bf16, fp32 is chosen unmeasured.

    Args:
        bench: idle; its model keeps no trace of it.
        hyperparameters: what is trained of the model, and after how many tokens texts are cut; on a GPU the rows too,
            of which a few would not keep it busy.
        most_seconds: that it takes, roughly; infinite for as long as it takes.

    Raises:
        ModelError: the model cannot read as many tokens.
    """
    if not has_bf16(context.device):
        return unmeasured(_asked(context))
    rows = max(MEASURED_ROWS, hyperparameters.batch_size) if context.device.type == "cuda" else MEASURED_ROWS
    while rows:
        if found := where_memory_suffices(partial(_measured, context, hyperparameters, rows, most_seconds)):
            return found
        context.model.network.zero_grad(set_to_none=True)
        rows //= 2
    return unmeasured(_asked(context))


def _asked(context: TrainingContext) -> Precision | None:
    asked = context.config.compute.precision
    return None if asked == "auto" else asked


def _measured(
    context: TrainingContext, hyperparameters: Hyperparameters, rows: int, most_seconds: float
) -> Measurement:
    split = context.tokenized(hyperparameters.max_length).train
    network, asked = context.model.network, _asked(context)
    TrialModel(context.model, context.task, hyperparameters, seed=0)
    # Without dropout, so that the logits of both precisions can be compared.
    network.eval()
    until = time.perf_counter() + most_seconds
    if math.isfinite(most_seconds):
        row_seconds = _row_seconds(_step(context, split, 1), most_seconds)
        rows = min(rows, int(most_seconds / (2 * PASSES * row_seconds)))
        if rows < LEAST_ROWS:
            return unmeasured(asked, row_seconds)
    step = _step(context, split, rows)
    return measure(step, rows, context.device, asked, lambda seconds: time.perf_counter() + seconds <= until)


def _step(context: TrainingContext, split: TokenizedSplit, rows: int) -> Callable[[Precision], torch.Tensor]:
    """Return a forward and backward pass over so many rows."""
    # Not simply the first: a file may be in the order of its texts' lengths.
    batch = collate(split, stratified_sample(context.train_strata, rows, context.config.seed), context.model.pad_id)
    targets, criterion = batch.targets.to(context.device), context.task.criterion(REPORTED, context.device)

    def step(precision: Precision) -> torch.Tensor:
        logits = context.model.logits(batch, precision)
        criterion(logits, targets).mean().backward()  # type: ignore[no-untyped-call]
        context.model.network.zero_grad(set_to_none=True)
        return logits.detach()

    return step


def _row_seconds(step: Callable[[Precision], torch.Tensor], most_seconds: float) -> float:
    """Return what one row takes in fp32: the faster of two passes, or the first where it is long."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 2 and seconds[0] < most_seconds / (2 * PASSES)):
        began = time.perf_counter()
        step("fp32")
        seconds.append(time.perf_counter() - began)
    return min(seconds)
