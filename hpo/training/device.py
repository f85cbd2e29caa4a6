"""Device: the GPU or CPU that trials train on, its limits, and the faster precision on it."""

import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from hpo.config.hyperparameters import Hyperparameters, resolved
from hpo.config.study_file import ComputeConfig, StudyConfig
from hpo.data.batching import Rows, collate
from hpo.data.stratify import stratified_sample
from hpo.data.tokenization import TokenizedSplit
from hpo.errors import ConfigurationError, SpaceError, error_line
from hpo.memory import if_memory_suffices, is_out_of_memory
from hpo.messages import Measurement, Precision
from hpo.model.trial_model import TrialModel
from hpo.space.consistency import cases
from hpo.space.search_space import SearchSpace
from hpo.training.context import TrainingContext
from hpo.training.evaluation import REPORTED

GPU_FILE = Path("/dev/nvidia0")
"""File that exists if the kernel has an NVIDIA driver."""


def choose_device(compute: ComputeConfig) -> torch.device:
    """Return the requested device; `auto` is the GPU if there is one.

    Raises:
        ConfigurationError: a GPU is requested, and torch sees none.
    """
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("compute.device is gpu (cuda), but torch sees no GPU; choose auto or cpu.")
    return torch.device("cpu" if compute.device == "cpu" or not torch.cuda.is_available() else "cuda:0")


def unseen_gpu_warning(compute: ComputeConfig) -> str | None:
    """Return a warning that this machine has a GPU which torch does not see; None otherwise, or for a CPU.

    With a CPU build of torch, or a driver older than its CUDA, a search meant for GPUs would otherwise run on the CPU.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    elsewhere = compute.device == "cpu" or compute.runner == "ray_tune"
    if elsewhere or hidden or torch.cuda.is_available() or not GPU_FILE.exists():
        return None
    build = torch.version.cuda
    why = (
        "is a build for the CPU" if build is None else f"is built for CUDA {build}, for which the driver may be too old"
    )
    return (
        f"This machine has an NVIDIA GPU, but torch {torch.__version__} sees none: it {why}. Trials train on the CPU; "
        "compute.device=cpu says that this is meant."
    )


def refuse_emulated(device: torch.device, precision: Precision) -> None:
    """Refuse bf16 on a GPU without support for it, such as a T4: torch would emulate it, slower than fp32.

    Raises:
        ConfigurationError: names the GPU.
    """
    if precision == "bf16" and not has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise ConfigurationError(
            f"The precision is bf16, but {device} ({name}) has none; set compute.precision to fp32."
        )


def has_bf16(device: torch.device) -> bool:
    """Return true if a device supports bf16 natively."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def with_dtype(config: StudyConfig, space: SearchSpace) -> StudyConfig:
    """Return the study with `model.dtype` resolved: `auto` is bf16 if all trials of the space use `lora`.

    Raises:
        SpaceError: the weights are to be bf16 or quantized, but a trial of the space changes them.
    """
    methods = {resolved("method", values) for values in cases(space.parameters, ("method",))}
    model, changing = config.model, sorted(methods - {"head", "lora"})
    asked = model.quantization or model.dtype
    if changing and asked not in ("auto", "fp32"):
        raise SpaceError(
            f"The model's weights are to be {asked}, but space {space.name} has method {' and '.join(changing)}, which "
            "trains them in fp32; let method be lora or head, or leave model.dtype and model.quantization out."
        )
    if model.dtype != "auto":
        return config
    on_cluster = config.compute.runner == "ray_tune"
    frozen = methods == {"lora"} and (on_cluster or has_bf16(choose_device(config.compute)))
    return config.model_copy(update={"model": model.model_copy(update={"dtype": "bf16" if frozen else "fp32"})})


ROUNDS = 3
PASSES = 1 + ROUNDS
"""Number of passes over the rows in each precision: a warm-up and the rounds."""
MEASURED_ROWS = 16
LEAST_ROWS = 4
"""Smallest number of rows whose time is representative of a batch."""
ENOUGH_SECONDS = 10.0
"""Seconds of a measurement beyond which no more than `LEAST_ROWS` are taken, if its time is limited."""
LEAST_GAIN = 1.1
"""Least speed-up of bf16 that is worth its rounding."""
MOST_DIFFERENCE = 0.05
"""Largest relative distance (Euclidean) between bf16 and fp32 logits that count as equal."""
TOO_LITTLE_TIME = "there is too little time"


class NotInBf16(Exception):
    """A network that computes in fp32, but not in bf16; its text is the error."""


Step = Callable[[Precision], Tensor]
"""A forward and backward pass over the same real batch; returns its logits."""


def measured_precision(
    context: TrainingContext, hyperparameters: Hyperparameters, most_seconds: float = math.inf
) -> Measurement:
    """Time training in both precisions, on fewer rows if memory or time is short, and choose.

    A configured precision is not measured. If not even one row fits into memory, time is too short, or the device or
    the network has no bf16, fp32 is chosen without a measurement.

    Args:
        context: without a trial in training; its model is left unchanged.
        hyperparameters: the trained part of the model and the text length; on a GPU also the batch size, because a few
            rows would not keep it busy.
        most_seconds: limit of the measurement; may be infinite.

    Raises:
        ModelError: the model cannot read as many tokens.
    """
    asked, until = context.config.compute.precision, time.perf_counter() + most_seconds
    if asked != "auto":
        return _unmeasured(precision=asked)
    if not has_bf16(context.device):
        return _unmeasured("the device has no bf16")
    rows = max(MEASURED_ROWS, hyperparameters.batch_size) if context.device.type == "cuda" else MEASURED_ROWS
    while rows:
        try:
            found = if_memory_suffices(partial(_measured, context, hyperparameters, rows, until))
        except NotInBf16 as error:
            return _unmeasured(f"the model does not compute in bf16 ({error})")
        if found:
            return found
        context.model.network.zero_grad(set_to_none=True)
        rows //= 2
    return _unmeasured("there is too little memory")


def measure(step: Step, rows: int, device: torch.device, until: float = math.inf) -> Measurement:
    """Time both precisions alternately, after one round of warm-up, and choose.

    Args:
        step: a training step over that many rows.
        rows: examples in its batch.
        device: the device of the step.
        until: end, on the clock of `time.perf_counter`; if no round ends before, fp32 is chosen.
    """
    began = time.perf_counter()
    fp32, bf16 = step("fp32"), step("bf16")
    round_seconds = time.perf_counter() - began
    difference = float((bf16 - fp32).norm() / fp32.norm().clamp(min=1e-12))
    rounds: list[tuple[float, float]] = []
    while len(rounds) < ROUNDS and time.perf_counter() + round_seconds <= until:
        rounds.append((_seconds(step, "fp32", device), _seconds(step, "bf16", device)))
    if not rounds:
        return _unmeasured(TOO_LITTLE_TIME)
    # The fastest round: other load on the machine only adds time.
    fp32_seconds, bf16_seconds = (min(seconds) / rows for seconds in zip(*rounds, strict=True))
    return Measurement(
        fp32_seconds=fp32_seconds,
        bf16_seconds=bf16_seconds,
        difference=difference,
        precision=choose(fp32_seconds, bf16_seconds, difference),
    )


def choose(fp32_seconds: float, bf16_seconds: float, difference: float) -> Precision:
    """Return bf16 if it is faster by `LEAST_GAIN` and its logits agree."""
    pays = fp32_seconds >= LEAST_GAIN * bf16_seconds
    return "bf16" if pays and difference <= MOST_DIFFERENCE else "fp32"


def _measured(context: TrainingContext, hyperparameters: Hyperparameters, rows: int, until: float) -> Measurement:
    TrialModel(context.model, context.task, hyperparameters, seed=0)
    # Without dropout, so that the logits of both precisions can be compared.
    context.model.network.eval()
    split = context.tokenized(hyperparameters.max_length)["train"]
    # Not simply the first rows, because a file may be sorted by the lengths of its texts.
    chosen = stratified_sample(context.train_strata, rows, context.config.seed)
    if math.isfinite(until):
        # Rows are padded to the longest, so none takes more time.
        longest = chosen[[split.tokens.lengths[chosen].argmax()]]
        rows = min(rows, rows_within(_step(context, split, longest), context.device, until))
        if rows < LEAST_ROWS:
            return _unmeasured(TOO_LITTLE_TIME)
        chosen = stratified_sample(context.train_strata, rows, context.config.seed)
    return measure(_step(context, split, chosen), rows, context.device, until)


def rows_within(step: Step, device: torch.device, until: float) -> int:
    """Return the rows for which both precisions can be measured in time; 0 if not even `step`, of one row, can be.

    No step is taken that would end after `until`, by the time of an earlier one.
    """
    seconds: dict[Precision, float] = {}
    # Twice, because the first step includes a warm-up.
    for precision in ("fp32", "bf16") * 2:
        expected = seconds.get(precision, seconds.get("fp32", 0.0))
        if time.perf_counter() + expected > until:
            break
        seconds[precision] = min(expected or math.inf, _seconds(step, precision, device))
    left = until - time.perf_counter()
    if len(seconds) < 2 or left <= 0:
        return 0
    of_a_row = PASSES * sum(seconds.values())
    return min(int(left / of_a_row), max(LEAST_ROWS, int(ENOUGH_SECONDS / of_a_row)))


def _step(context: TrainingContext, split: TokenizedSplit, rows: Rows) -> Step:
    batch = collate(split, rows, context.model.pad_id)
    targets, criterion = batch.targets.to(context.device), context.task.criterion(REPORTED, context.device)

    def step(precision: Precision) -> Tensor:
        try:
            logits = context.model.logits(batch, precision)
        except RuntimeError as error:
            if precision == "fp32" or is_out_of_memory(error):
                raise
            # Some networks fill in numbers that bf16 does not hold, such as the DeBERTa of 2020.
            raise NotInBf16(error_line(error)) from error
        criterion(logits, targets).mean().backward()  # type: ignore[no-untyped-call]
        context.model.network.zero_grad(set_to_none=True)
        return logits.detach()

    return step


def _unmeasured(reason: str = "", precision: Precision = "fp32") -> Measurement:
    return Measurement(fp32_seconds=0.0, bf16_seconds=0.0, difference=0.0, precision=precision, unmeasured=reason)


def _seconds(step: Step, precision: Precision, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    step(precision)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
