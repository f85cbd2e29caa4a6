"""Precision of the forward pass, fp32 or bf16: measured once, because it depends on the machine and the model."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpo.errors import ConfigurationError

Precision = Literal["fp32", "bf16"]

ROUNDS = 3
LEAST_GAIN = 1.15
"""How many times faster bf16 must be to be worth its rounding."""
MOST_DIFFERENCE = 0.05
"""Largest distance of bf16 logits from fp32 ones, over the length of the fp32 ones, at which they agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How fast this device trains this model."""

    fp32_seconds: float
    """Forward and backward pass, per example."""
    bf16_seconds: float
    """The same under bf16 autocast."""
    difference: float
    """Distance of bf16 logits from fp32 ones, over the length of the fp32 ones."""
    precision: Precision
    """What was chosen, or asked for."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which a forward pass is computed in `precision`; weights stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def refuse_emulated(device: torch.device, precision: Precision) -> None:
    """Refuse bf16 on a GPU that has none, such as a T4: torch would emulate it, slower than fp32.

    Raises:
        ConfigurationError: says which GPU it is.
    """
    if precision == "bf16" and not has_bf16(device):
        name = torch.cuda.get_device_name(device)
        raise ConfigurationError(
            f"The precision is bf16, but {device} ({name}) has none; set compute.precision to fp32."
        )


def has_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bf16 itself."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def measure(
    step: Callable[[Precision], Tensor],
    rows: int,
    device: torch.device,
    asked: Precision | None = None,
    has_time: Callable[[float], bool] = lambda _: True,
) -> Measurement:
    """Time both precisions in turns, after one round of warm-up, and choose.

    Args:
        step: a forward and backward pass over the same real batch; returns its logits.
        rows: examples in that batch.
        device: where it runs.
        asked: what the user wants whatever is measured; None to choose.
        has_time: whether so many seconds more may be taken; without any, fp32 is chosen.
    """
    began = time.perf_counter()
    fp32, bf16 = step("fp32"), step("bf16")
    round_seconds = time.perf_counter() - began
    difference = float((bf16 - fp32).norm() / fp32.norm().clamp(min=1e-12))
    seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(ROUNDS):
        if not has_time(round_seconds):
            break
        for precision, taken in seconds.items():
            taken.append(_timed(step, precision, device))
    if not seconds["fp32"]:
        return unmeasured(asked, round_seconds / 2 / rows)
    # The fastest round: whatever else the machine does only ever adds.
    fp32_seconds, bf16_seconds = min(seconds["fp32"]), min(seconds["bf16"])
    return Measurement(
        fp32_seconds=fp32_seconds / rows,
        bf16_seconds=bf16_seconds / rows,
        difference=difference,
        precision=asked or choose(fp32_seconds, bf16_seconds, difference),
    )


def unmeasured(asked: Precision | None, fp32_seconds: float = 0.0) -> Measurement:
    """Return what is asked for, or fp32, without a comparison: at most so many seconds of an example are known."""
    return Measurement(fp32_seconds=fp32_seconds, bf16_seconds=0.0, difference=0.0, precision=asked or "fp32")


def choose(fp32_seconds: float, bf16_seconds: float, difference: float) -> Precision:
    """Return bf16 where it is faster by `LEAST_GAIN` and its logits agree."""
    pays = fp32_seconds >= LEAST_GAIN * bf16_seconds
    return "bf16" if pays and difference <= MOST_DIFFERENCE else "fp32"


def _timed(step: Callable[[Precision], Tensor], precision: Precision, device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    step(precision)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
