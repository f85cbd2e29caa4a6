"""Precision, fp32 or bf16: measured on a few examples, as what pays depends on machine and model."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters
from hpo.data.batching import collate
from hpo.data.stratify import stratified_sample
from hpo.memory import if_memory_suffices
from hpo.messages import Measurement, Precision
from hpo.model.trial_model import TrialModel
from hpo.training.context import TrainingContext
from hpo.training.device import has_bf16
from hpo.training.evaluation import REPORTED

ROUNDS = 3
PASSES = 1 + ROUNDS
"""Of each precision over the rows: a warm-up and the rounds."""
MEASURED_ROWS = 16
LEAST_ROWS = 4
"""Rows on which a time says something of a batch."""
LEAST_GAIN = 1.15
"""How many times faster bf16 must be to be worth its rounding."""
MOST_DIFFERENCE = 0.05
"""Largest distance of bf16 logits from fp32 ones, over the length of the fp32 ones, at which they agree."""

Step = Callable[[Precision], Tensor]
"""A forward and backward pass over the same real batch; returns its logits."""


def measured_precision(
    context: TrainingContext, hyperparameters: Hyperparameters, most_seconds: float = math.inf
) -> Measurement:
    """Time training in both precisions, on fewer rows where memory is short, and choose.

    Where not even one row fits, there is too little time, or the device has no bf16, fp32 is chosen unmeasured.

    Args:
        context: of which no trial trains; its model keeps no trace of it.
        hyperparameters: what is trained of the model, and after how many tokens texts are cut; on a GPU the rows too,
            of which a few would not keep it busy.
        most_seconds: that it takes, roughly; infinite for as long as it takes.

    Raises:
        ModelError: the model cannot read as many tokens.
    """
    asked = context.config.compute.precision
    rows = max(MEASURED_ROWS, hyperparameters.batch_size) if context.device.type == "cuda" else MEASURED_ROWS
    while rows and has_bf16(context.device):
        measuring = partial(_measured, context, hyperparameters, rows, None if asked == "auto" else asked, most_seconds)
        if found := if_memory_suffices(measuring):
            return found
        context.model.network.zero_grad(set_to_none=True)
        rows //= 2
    return _unmeasured(None if asked == "auto" else asked)


def measure(
    step: Step, rows: int, device: torch.device, asked: Precision | None = None, until: float = math.inf
) -> Measurement:
    """Time both precisions in turns, after one round of warm-up, and choose.

    Args:
        step: over so many rows.
        rows: examples in its batch.
        device: where it runs.
        asked: what the user wants whatever is measured; None to choose.
        until: on the clock of `time.perf_counter`; where no round ends before, fp32 is chosen.
    """
    began = time.perf_counter()
    fp32, bf16 = step("fp32"), step("bf16")
    round_seconds = time.perf_counter() - began
    difference = float((bf16 - fp32).norm() / fp32.norm().clamp(min=1e-12))
    rounds: list[tuple[float, float]] = []
    while len(rounds) < ROUNDS and time.perf_counter() + round_seconds <= until:
        rounds.append((_seconds(step, "fp32", device), _seconds(step, "bf16", device)))
    if not rounds:
        return _unmeasured(asked, round_seconds / 2 / rows)
    # The fastest round: whatever else the machine does only ever adds.
    fp32_seconds, bf16_seconds = (min(seconds) / rows for seconds in zip(*rounds, strict=True))
    return Measurement(
        fp32_seconds=fp32_seconds,
        bf16_seconds=bf16_seconds,
        difference=difference,
        precision=asked or choose(fp32_seconds, bf16_seconds, difference),
    )


def choose(fp32_seconds: float, bf16_seconds: float, difference: float) -> Precision:
    """Return bf16 where it is faster by `LEAST_GAIN` and its logits agree."""
    pays = fp32_seconds >= LEAST_GAIN * bf16_seconds
    return "bf16" if pays and difference <= MOST_DIFFERENCE else "fp32"


def _measured(
    context: TrainingContext, hyperparameters: Hyperparameters, rows: int, asked: Precision | None, most_seconds: float
) -> Measurement:
    until = time.perf_counter() + most_seconds
    TrialModel(context.model, context.task, hyperparameters, seed=0)
    # Without dropout, so that the logits of both precisions can be compared.
    context.model.network.eval()
    step = partial(_step, context, hyperparameters.max_length)
    if math.isfinite(most_seconds):
        row_seconds = _seconds(step(1), "fp32", context.device)
        if row_seconds < most_seconds / (2 * PASSES):
            row_seconds = min(row_seconds, _seconds(step(1), "fp32", context.device))
        rows = min(rows, int(most_seconds / (2 * PASSES * row_seconds)))
        if rows < LEAST_ROWS:
            return _unmeasured(asked, row_seconds)
    return measure(step(rows), rows, context.device, asked, until)


def _step(context: TrainingContext, max_length: int, rows: int) -> Step:
    # Not simply the first rows: a file may be in the order of its texts' lengths.
    chosen = stratified_sample(context.train_strata, rows, context.config.seed)
    batch = collate(context.tokenized(max_length)["train"], chosen, context.model.pad_id)
    targets, criterion = batch.targets.to(context.device), context.task.criterion(REPORTED, context.device)

    def step(precision: Precision) -> Tensor:
        logits = context.model.logits(batch, precision)
        criterion(logits, targets).mean().backward()  # type: ignore[no-untyped-call]
        context.model.network.zero_grad(set_to_none=True)
        return logits.detach()

    return step


def _unmeasured(asked: Precision | None, fp32_seconds: float = 0.0) -> Measurement:
    """Return what is asked for, or fp32, without a comparison: at most so many seconds of an example are known."""
    return Measurement(fp32_seconds=fp32_seconds, bf16_seconds=0.0, difference=0.0, precision=asked or "fp32")


def _seconds(step: Step, precision: Precision, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    step(precision)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
