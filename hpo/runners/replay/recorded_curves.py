"""Recorded learning curves: a proposal is answered by the curve of the nearest configuration that was trained."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.config.hyperparameters import Hyperparameters
from hpo.errors import ConfigurationError
from hpo.messages import Assignment, Ending
from hpo.runners.replay.curves import Curve, Point, passes_of

DECADE = 10.0
"""Largest value over smallest from which a positive hyperparameter is compared on its log scale."""
TRAINABLE = (Ending.COMPLETED, Ending.PRUNED)

Difference = Callable[[Any, Any], float]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordedShape:
    """A recorded curve over the share of its trial that was trained; arrays of one length, the first rising."""

    curve: Curve
    shares: Floats
    scores: Floats
    seconds: Floats

    @property
    def trainable(self) -> bool:
        return self.curve.ending in TRAINABLE

    def score_at(self, share: float) -> float:
        return float(np.interp(share, self.shares, self.scores))

    def seconds_at(self, share: float) -> float:
        return float(np.interp(share, np.append(0.0, self.shares), np.append(0.0, self.seconds)))

    def followed_by(self, shares: Floats, scores: Floats) -> "_RecordedShape":
        """Return this curve, continued at its own pace."""
        pace = self.seconds[-1] / self.shares[-1]
        return _RecordedShape(
            curve=self.curve,
            shares=np.append(self.shares, shares),
            scores=np.append(self.scores, scores),
            seconds=np.append(self.seconds, pace * shares),
        )


class RecordedCurves:
    """Curves of a study that was run.

    The distance of two configurations is the sum over hyperparameters of their difference: for a number over its range
    among the curves, on a log scale where it is positive and spans a decade; 0 or 1 for anything else (Gower 1971). Of
    equally near curves, such as a default on two seeds, the assignment's seed picks one. A curve is stretched to the
    proposal's own length, its seconds with its passes. A pruned curve is continued from its last point in parallel to
    the nearest completed one.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        """Take the curves, of which at least one must be completed.

        Raises:
            ConfigurationError: none is.
        """
        # A trial that was pruned before its first evaluation has shown nothing.
        usable = [curve for curve in curves if curve.points or curve.ending not in TRAINABLE]
        self._differences = differences(curve.hyperparameters for curve in usable)
        shapes = [_shape(curve) for curve in usable]
        completed = [_level(shape) for shape in shapes if shape.curve.ending is Ending.COMPLETED]
        if not completed:
            raise ConfigurationError("None of the recorded curves is completed; give those of a longer study.")
        untrainable = [shape for shape in shapes if not shape.trainable]
        pruned = [shape for shape in shapes if shape.curve.ending is Ending.PRUNED]
        continued = [
            _continued_along(shape, self._nearest(completed, shape.curve.hyperparameters)[0]) for shape in pruned
        ]
        self._shapes = [*completed, *continued, *untrainable]

    def curve(self, assignment: Assignment) -> Curve:
        """Return the nearest curve, read at the assignment's milestones."""
        near = self._nearest(self._shapes, assignment.hyperparameters)
        shape = near[assignment.seed % len(near)]
        end, reached = assignment.milestones[-1].rung, max(shape.shares, default=0.0) + 1e-9
        stretch = passes_of(assignment.hyperparameters) / passes_of(shape.curve.hyperparameters)
        points = tuple(
            Point(rung=rung, score=shape.score_at(rung / end), seconds=stretch * shape.seconds_at(rung / end))
            for rung in (milestone.rung for milestone in assignment.milestones)
            if rung / end <= reached
        )
        return Curve(
            hyperparameters=assignment.hyperparameters,
            length=end,
            points=points,
            ending=Ending.COMPLETED if shape.trainable else shape.curve.ending,
            seconds=points[-1].seconds if shape.trainable else stretch * shape.curve.seconds,
        )

    def true_score(self, assignment: Assignment) -> float:
        """Return the best score on the nearest curve, the mean over several; NaN where it cannot be trained."""
        near = [shape for shape in self._nearest(self._shapes, assignment.hyperparameters) if shape.trainable]
        return float(np.mean([shape.scores.max() for shape in near])) if near else math.nan

    def _nearest(self, shapes: Sequence[_RecordedShape], hyperparameters: Hyperparameters) -> list[_RecordedShape]:
        apart = [distance(self._differences, shape.curve.hyperparameters, hyperparameters) for shape in shapes]
        return [shape for shape, far in zip(shapes, apart, strict=True) if far <= min(apart) + 1e-12]


def differences(configurations: Iterable[Hyperparameters]) -> dict[str, Difference]:
    """Return hyperparameter -> distance of two of its values, for those that vary; the seed is none."""
    rows = [dict(configuration) for configuration in configurations]
    values = {name: [row[name] for row in rows] for name in Hyperparameters.model_fields if name != "seed"}
    return {name: _difference(known) for name, known in values.items() if any(one != known[0] for one in known)}


def distance(apart: Mapping[str, Difference], one: Hyperparameters, other: Hyperparameters) -> float:
    """Return the distance of two configurations, by the result of `differences`."""
    return sum(difference(getattr(one, name), getattr(other, name)) for name, difference in apart.items())


def _difference(known: Sequence[Any]) -> Difference:
    numbers = [value for value in known if _is_number(value)]
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low == high:
        return lambda one, other: float(one != other)
    on_log_scale = low > 0 and high / low >= DECADE

    def difference(one: Any, other: Any) -> float:
        if not (_is_number(one) and _is_number(other)):
            return float(one != other)
        if on_log_scale and min(one, other) > 0:
            return abs(math.log(one / other)) / math.log(high / low)
        return abs(float(one - other)) / (high - low)

    return difference


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shape(curve: Curve) -> _RecordedShape:
    return _RecordedShape(
        curve=curve,
        shares=np.array([point.rung / curve.length for point in curve.points]),
        scores=np.array([point.score for point in curve.points]),
        seconds=np.array([point.seconds for point in curve.points]),
    )


def _level(shape: _RecordedShape) -> _RecordedShape:
    """Return a completed curve to its full length, level from where it stopped itself early."""
    return shape if shape.shares[-1] >= 1 else shape.followed_by(np.array([1.0]), shape.scores[-1:])


def _continued_along(shape: _RecordedShape, guide: _RecordedShape) -> _RecordedShape:
    """Return a pruned curve to its full length, in parallel to a completed one."""
    last = shape.shares[-1]
    rest = guide.shares > last
    return shape.followed_by(guide.shares[rest], shape.scores[-1] + guide.scores[rest] - guide.score_at(last))
