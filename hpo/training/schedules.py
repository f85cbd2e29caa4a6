"""Where the learning rate stands at a step: pure functions of integers, over the trial's full length.

The conventions are those of `transformers.get_scheduler`, so that an exported configuration trains the same elsewhere:
step 0 of w warm-up steps has factor 0, step w is the peak, and a decay that ends at zero would do so one step after
the last. A trial stopped early has followed the first part of this curve, never a squeezed one.
"""

import math
from collections.abc import Callable

from hpo.config.hyperparameters import Hyperparameters


def constant(progress: float, hyperparameters: Hyperparameters) -> float:  # noqa: ARG001 - a schedule's signature
    """Return 1: the peak rate throughout."""
    return 1.0


def linear(progress: float, hyperparameters: Hyperparameters) -> float:  # noqa: ARG001 - a schedule's signature
    """Return the factor that falls from 1 to 0 on a straight line."""
    return 1.0 - progress


def cosine(progress: float, hyperparameters: Hyperparameters) -> float:  # noqa: ARG001 - a schedule's signature
    """Return the factor that falls from 1 to 0 on half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def step(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that is multiplied by `decay_factor` each time `decay_every` of the progress has passed."""
    every, cut = hyperparameters.decay_every, hyperparameters.decay_factor
    assert every is not None
    assert cut is not None
    # 0.3 / 0.1 is a hair below 3 in floating point, yet three periods have passed.
    return cut ** math.floor(progress / every + 1e-9)


SCHEDULES: dict[str, Callable[[float, Hyperparameters], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "step": step,
}
"""Name -> factor in 0..1 at a progress in 0..1, the fraction of the steps after warm-up that were taken."""


def warmup_steps(hyperparameters: Hyperparameters, total_steps: int) -> int:
    """Return over how many of `total_steps` the rate rises; rounded up, as transformers does."""
    return math.ceil(hyperparameters.warmup_ratio * total_steps)


def factor(taken: int, total_steps: int, hyperparameters: Hyperparameters) -> float:
    """Return what the peak rate is multiplied by in the step after `taken` steps, in 0..1.

    Args:
        taken: optimizer steps already taken, 0 to `total_steps`.
        total_steps: optimizer steps of the whole trial, at least 1.
        hyperparameters: names the schedule and its warm-up.
    """
    warmup = warmup_steps(hyperparameters, total_steps)
    if taken < warmup:
        return taken / warmup
    progress = (taken - warmup) / max(1, total_steps - warmup)
    return SCHEDULES[hyperparameters.schedule](progress, hyperparameters)
