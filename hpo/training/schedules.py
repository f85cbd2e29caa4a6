"""Learning-rate schedules: pure functions of integers, over the trial's full length.

The conventions are those of `transformers.get_scheduler`, so that an exported configuration trains the same elsewhere:
step 0 of w warm-up steps has factor 0, step w is the peak, and a decay that ends at zero reaches it one step after the
last. A trial that is stopped early has followed the first part of this curve, not a compressed one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpo.config.hyperparameters import Hyperparameters

Curve = Callable[[float, Hyperparameters], float]
"""Factor in 0..1 at a progress in 0..1."""


def linear_rise(progress: float, hyperparameters: Hyperparameters) -> float:  # noqa: ARG001 - a curve's signature
    """Return the factor that rises linearly from 0 to 1."""
    return progress


def cosine_rise(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that rises from `initial_rate_ratio` to 1 on half a cosine."""
    start = _given(hyperparameters.initial_rate_ratio)
    return start + (1.0 - start) * _half_cosine(1.0 - progress)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rise and fall of the learning rate, each as a factor of the peak rate."""

    description: str
    source: str
    fall: Curve
    """Factor by the fraction of the steps after warm-up that were taken; 1 at 0."""
    rise: Curve = linear_rise
    """Factor by the fraction of the warm-up steps that were taken; it ends at 1, the first value of `fall`."""


def constant(progress: float, hyperparameters: Hyperparameters) -> float:  # noqa: ARG001 - a curve's signature
    """Return 1: a constant rate."""
    return 1.0


def linear(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that falls linearly."""
    return _down_to_final(1.0 - progress, hyperparameters)


def polynomial(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that falls as the `power` of the remaining progress."""
    return _down_to_final((1.0 - progress) ** _given(hyperparameters.power), hyperparameters)


def exponential(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that falls by an equal ratio each step, to `final_rate_ratio` at the end."""
    return math.pow(_given(hyperparameters.final_rate_ratio), progress)


def inverse_sqrt(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return 1 / sqrt(1 + progress * (1 / final**2 - 1)), which ends at `final_rate_ratio`.

    If that is sqrt(`warmup_ratio`), it is sqrt(w / t) at step t after w warm-up steps (Vaswani et al. 2017).
    """
    final = _given(hyperparameters.final_rate_ratio)
    # The same formula, without the square of a tiny ratio in a denominator.
    return final / math.hypot(final, math.sqrt(progress * (1.0 - final * final)))


def cosine(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that falls on half a cosine."""
    return _down_to_final(_half_cosine(progress), hyperparameters)


def cosine_restarts(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that falls on half a cosine `cycles` times, jumping back to the peak in between."""
    within = _given(hyperparameters.cycles) * progress % 1.0 if progress < 1.0 else 1.0
    return _down_to_final(_half_cosine(within), hyperparameters)


def step(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return the factor that is multiplied by `decay_factor` each time `decay_every` of the progress has passed."""
    # 0.3 / 0.1 is slightly below 3 in floating point, but three periods have passed.
    cuts = math.floor(min(progress / _given(hyperparameters.decay_every), MOST_CUTS) + 1e-9)
    return max(_given(hyperparameters.decay_factor) ** cuts, _given(hyperparameters.final_rate_ratio))


def warmup_stable_decay(progress: float, hyperparameters: Hyperparameters) -> float:
    """Return 1 until the last `decay_fraction` of the progress, then a linear fall."""
    left = min(1.0, (1.0 - progress) / _given(hyperparameters.decay_fraction))
    return _down_to_final(left, hyperparameters)


MOST_CUTS = 1e9
"""Smallest factor of `step`, since periods may be as short as floats allow."""
SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule("stays at the peak", "transformers.get_constant_schedule_with_warmup", constant),
    "linear": Schedule("falls on a straight line", "transformers.get_linear_schedule_with_warmup", linear),
    "polynomial": Schedule(
        "falls as a power of what is left", "transformers.get_polynomial_decay_schedule_with_warmup", polynomial
    ),
    "exponential": Schedule("falls by an equal ratio each step", "torch.optim.lr_scheduler.ExponentialLR", exponential),
    "inverse_sqrt": Schedule("falls as one over the square root of the step", "Vaswani et al. 2017", inverse_sqrt),
    "cosine": Schedule("falls on half a cosine", "Loshchilov and Hutter 2017", cosine),
    "cosine_restarts": Schedule(
        "falls on half a cosine several times, each time from the peak", "Loshchilov and Hutter 2017", cosine_restarts
    ),
    "step": Schedule("is cut by a factor at even distances", "torch.optim.lr_scheduler.StepLR", step),
    "one_cycle": Schedule(
        "rises on half a cosine, falls on half a cosine", "Smith and Topin 2019", cosine, rise=cosine_rise
    ),
    "warmup_stable_decay": Schedule(
        "stays at the peak, then falls on a straight line at the end", "Hu et al. 2024", warmup_stable_decay
    ),
    "reduce_on_plateau": Schedule(
        "is cut by a factor where the score no longer rises", "torch.optim.lr_scheduler.ReduceLROnPlateau", constant
    ),
}


class Plateau:
    """Factor of the rate under `reduce_on_plateau`, from the scores of full evaluations.

    Like torch's `ReduceLROnPlateau(mode="max", threshold=0, eps=0)` with `min_lr` the rate times `final_rate_ratio`.
    """

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self.factor = 1.0
        """From 1 down to `final_rate_ratio`."""
        self._cut = _given(hyperparameters.decay_factor)
        self._lowest = _given(hyperparameters.final_rate_ratio)
        self._patience = _given(hyperparameters.plateau_patience)
        self._best = -math.inf
        self._without_better = 0

    def state(self) -> dict[str, float]:
        """Return the state that later factors depend on, for `resume`."""
        return {"factor": self.factor, "best": self._best, "without_better": self._without_better}

    def resume(self, state: Mapping[str, float]) -> None:
        """Restore what `state` returned."""
        self.factor, self._best = state["factor"], state["best"]
        self._without_better = int(state["without_better"])

    def observe(self, score: float) -> None:
        """Record a full evaluation's score; cut the rate after more than `plateau_patience` without a better one."""
        if score > self._best:
            self._best, self._without_better = score, 0
            return
        self._without_better += 1
        if self._without_better > self._patience:
            self.factor = max(self.factor * self._cut, self._lowest)
            self._without_better = 0


def warmup_steps(hyperparameters: Hyperparameters, total_steps: int) -> int:
    """Return the number of warm-up steps among `total_steps`, rounded up as in transformers."""
    return math.ceil(hyperparameters.warmup_ratio * total_steps)


def factor(taken: int, total_steps: int, hyperparameters: Hyperparameters) -> float:
    """Return the factor of the peak rate, in 0..1, for the step after `taken` steps.

    For `reduce_on_plateau` this is the part that does not depend on scores; `Plateau` has the other.

    Args:
        taken: optimizer steps already taken, 0 to `total_steps`.
        total_steps: optimizer steps of the whole trial, at least 1.
        hyperparameters: the schedule and its warm-up.
    """
    schedule, warmup = SCHEDULES[hyperparameters.schedule], warmup_steps(hyperparameters, total_steps)
    if taken < warmup:
        return schedule.rise(taken / warmup, hyperparameters)
    return schedule.fall((taken - warmup) / max(1, total_steps - warmup), hyperparameters)


def _down_to_final(shape: float, hyperparameters: Hyperparameters) -> float:
    """Return `shape`, which falls from 1 to 0, rescaled to fall from 1 to `final_rate_ratio`."""
    final = _given(hyperparameters.final_rate_ratio)
    return final + (1.0 - final) * shape


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _given(value: float | None) -> float:
    """Return a field of the schedule, which `Hyperparameters` fills in where it applies."""
    assert value is not None
    return value
