"""Learning-rate charts: the rate of a schedule over a trial, in block characters, on one line or several."""

import math
from collections.abc import Iterator

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.space.consistency import cases
from hpo.space.search_space import SearchSpace
from hpo.training.schedules import SCHEDULES, factor

BLOCKS = " ▁▂▃▄▅▆▇█"
STEPS = 10_000
"""Optimizer steps of the drawn trial: enough to make rounding invisible."""
WIDTH = 64
HEIGHT = 8
SHAPING = ("warmup_ratio", *(name for name, (other, _) in APPLIES_TO.items() if other == "schedule"))
"""Fields of `Hyperparameters` that determine a curve, besides the schedule."""


def curve_line(hyperparameters: Hyperparameters, width: int) -> str:
    """Return the rate over a trial as one line of `width` characters, at least 2: `▁█▇▆▅▄▃▃▂▁`."""
    levels = len(BLOCKS) - 2
    return "".join(BLOCKS[1 + round(value * levels)] for value in _curve(hyperparameters, width))


def chart(hyperparameters: Hyperparameters, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Return the rate over a trial as `height` lines of `width` characters, with a scale on the left and an axis below.

    A line is 1 / `height` of the peak rate, drawn in eighths.
    """
    eighths = [round(value * height * 8) for value in _curve(hyperparameters, width)]
    rows = ["".join(BLOCKS[min(8, max(0, one - 8 * row))] for one in eighths) for row in reversed(range(height))]
    scale = ["peak", *[""] * (height - 2), "0"]
    drawn = [f"{label:>4} │{row}".rstrip() for label, row in zip(scale, rows, strict=True)]
    return "\n".join([*drawn, f"     └{'─' * width}", f"      start{'end':>{width - 5}}"])


def charts(space: SearchSpace) -> Iterator[str]:
    """Return a titled chart for each schedule in the space, with the space's default values of `SHAPING`."""
    drawn: set[str] = set()
    for case in cases(space.parameters, ("schedule",)):
        hyperparameters = space.hyperparameters(space.default_values(case))
        if hyperparameters.schedule not in drawn:
            drawn.add(hyperparameters.schedule)
            yield f"{_title(hyperparameters)}\n\n{chart(hyperparameters)}\n"


def _curve(hyperparameters: Hyperparameters, points: int) -> list[float]:
    """Return the rate as a share of its peak at `points` evenly spaced steps from the start to the end."""
    return [factor(math.ceil(point * (STEPS - 1) / (points - 1)), STEPS, hyperparameters) for point in range(points)]


def _title(hyperparameters: Hyperparameters) -> str:
    schedule = SCHEDULES[hyperparameters.schedule]
    fields = {name: getattr(hyperparameters, name) for name in SHAPING}
    named = ", ".join(f"{name} {value:.4g}" for name, value in fields.items() if value is not None)
    title = f"{hyperparameters.schedule}: {schedule.description}\n{named}"
    if hyperparameters.schedule == "reduce_on_plateau":
        title += "\nIts cuts depend on the scores, so the curve is that of a trial whose score always rises."
    return title
