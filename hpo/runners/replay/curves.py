"""Learning curves: score and training time of a configuration over its training, and look-up of the nearest curve.

To add another source of curves: a class with the two methods of `CurveSource`, in a file of its own.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.parsing import Typed, read_model
from hpo.errors import ConfigurationError, NoResultError
from hpo.messages import Assignment, Ending
from hpo.search.pruners import LAST_RUNG, milestones, passes_of
from hpo.space.domains import is_number
from hpo.space.search_space import SearchSpace
from hpo.store.database import Database
from hpo.store.results import Evaluation, TrialResult, read_history, read_search

FORMAT = "hpo-curves"
MARK = f'{{"format": "{FORMAT}"'
"""Start of every file of recorded curves."""
VERSION = 1
ENDED = (Ending.COMPLETED, Ending.PRUNED, Ending.DIVERGED, Ending.INFEASIBLE)
"""Endings that depend on the configuration, unlike errors and pauses."""
TRAIN_ROWS = 2000
"""Assumed number of training rows if the curves do not contain it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One evaluation on a curve."""

    rung: Annotated[int, Field(ge=1, le=LAST_RUNG)]
    """Examples seen, in per mille of those of the study's longest trial; with folds, folds scored."""
    score: float
    seconds: Annotated[float, Field(gt=0)]
    """Training and evaluation time so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The learning curve of one trial, up to its ending."""

    hyperparameters: Hyperparameters
    length: int
    """Last rung of the trial if it is trained completely, 1 to 1000."""
    points: tuple[Point, ...]
    """Its evaluations up to the ending; rung and seconds increase."""
    ending: Ending
    """`completed`, `pruned`, `diverged` or `infeasible`."""
    seconds: float
    """Training and evaluation time until it ended."""
    train_rows: int = TRAIN_ROWS
    """Training rows of an epoch, which determine the number of optimizer steps; not in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The curves of one study."""

    study: str
    metric: str
    """Metric of the scores, e.g. `macro_f1`."""
    parameters: tuple[str, ...]
    """Hyperparameters in the study's search space."""
    curves: tuple[Curve, ...]


class CurveSource(Protocol):
    """Learning curves of all configurations of a space. The same assignment always has the same curve."""

    def curve(self, assignment: Assignment) -> Curve:
        """Return the curve of a trial, with a point at each of its milestones up to its ending.

        The ending is `completed`, `diverged` or `infeasible`.
        """

    def true_score(self, assignment: Assignment) -> float:
        """Return the final score of the trial's configuration, without the noise of one seed."""


def export_curves(database: Database, study: str | None = None) -> Recording:
    """Return the curves of a study's trials that completed, were pruned or could not be trained.

    Args:
        database: the store.
        study: name of the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, several if none was named, or one that confirms another.
        NoResultError: no trial has completed.
        StoreError: a study that hpo did not make, or the store failed.
    """
    results = read_search(database, study)
    trials = [trial for trial in results.trials if trial.ending in ENDED]
    if all(trial.ending != Ending.COMPLETED for trial in trials):
        raise NoResultError(f"The study {results.name!r} has no completed trial yet, so no curve to export.")
    evaluations = defaultdict(list)
    for one in read_history(database, results.name).evaluations:
        evaluations[one.trial].append(one)
    space = SearchSpace.from_mapping(results.space, results.name)
    folds = bool(results.configuration.get("evaluation", {}).get("folds"))
    return Recording(
        study=results.name,
        metric=results.metric,
        parameters=tuple(parameter.name for parameter in space.parameters),
        curves=tuple(_curve(trial, evaluations[trial.number], space, folds=folds) for trial in trials),
    )


def _curve(trial: TrialResult, evaluations: Sequence[Evaluation], space: SearchSpace, *, folds: bool) -> Curve:
    hyperparameters = Hyperparameters(**trial.configuration)
    longest = float(space.maximum_passes())
    (end,) = milestones(passes=passes_of(hyperparameters), maximum_passes=longest, common=(), full_reports=1)
    return Curve(
        hyperparameters=hyperparameters,
        length=LAST_RUNG if folds else end.rung,
        points=tuple(Point(rung=one.rung, score=one.score, seconds=one.seconds) for one in evaluations),
        ending=Ending(trial.ending or ""),
        seconds=max([trial.seconds or 0.0, *(one.seconds for one in evaluations[-1:])]),
    )


def to_lines(recording: Recording) -> str:
    """Return a recording as JSON Lines, a header and then one curve per line; `read_curves` restores it exactly."""
    header = {
        "format": FORMAT, "version": VERSION, "study": recording.study, "metric": recording.metric,
        "parameters": recording.parameters,
    }  # fmt: skip
    lines = [header, *(_to_json(curve) for curve in recording.curves)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _to_json(curve: Curve) -> dict[str, Any]:
    values = asdict(curve) | {"hyperparameters": curve.hyperparameters.to_mapping()}
    return {name: value for name, value in values.items() if name != "train_rows"}


class _Header(Typed):
    format: Literal["hpo-curves"]
    version: int
    study: Annotated[str, Field(max_length=128)]
    metric: Annotated[str, Field(min_length=1)]
    parameters: tuple[str, ...]


class _CurveLine(Typed):
    hyperparameters: Hyperparameters
    length: Annotated[int, Field(ge=1, le=LAST_RUNG)]
    points: tuple[Point, ...]
    ending: Literal[Ending.COMPLETED, Ending.PRUNED, Ending.DIVERGED, Ending.INFEASIBLE]
    seconds: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _goes_forward(self) -> Self:
        pairs = list(zip(self.points, self.points[1:], strict=False))
        if any(one.rung >= next_.rung or one.seconds >= next_.seconds for one, next_ in pairs):
            raise ValueError("the points of a curve must rise in rung and in seconds.")
        if self.points and (self.points[-1].rung > self.length or self.points[-1].seconds > self.seconds):
            raise ValueError("the points of a curve must lie within its `length` and its `seconds`.")
        if self.ending is Ending.COMPLETED and not self.points:
            raise ValueError("a completed curve has at least one point.")
        return self


def read_curves(path: Path) -> Recording:
    """Read a file that `hpo curves export` wrote.

    Raises:
        ConfigurationError: no such file, or it has another format, a newer version or no completed curve.
    """
    lines = _json_lines(path)
    if not lines or not isinstance(lines[0], dict) or lines[0].get("format") != FORMAT:
        raise ConfigurationError(f"{path} is not a file of learning curves; create one with hpo curves export.")
    header = read_model(_Header, lines[0], f"{path}, line 1")
    if header.version != VERSION:
        raise ConfigurationError(
            f"{path} has version {header.version} of the format, but this hpo reads version {VERSION}; export the "
            "curves again."
        )
    curves = tuple(_read_curve(line, f"{path}, line {number}") for number, line in enumerate(lines[1:], start=2))
    if all(curve.ending is not Ending.COMPLETED for curve in curves):
        raise ConfigurationError(f"{path} has no completed curve; export those of a study with completed trials.")
    return Recording(study=header.study, metric=header.metric, parameters=header.parameters, curves=curves)


def _json_lines(path: Path) -> list[Any]:
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"Cannot read {path}: it is not UTF-8 text.") from None
    lines: list[Any] = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except (ValueError, RecursionError):
            raise ConfigurationError(f"{path}, line {number}: this is not JSON; export the curves again.") from None
    return lines


def _read_curve(line: Any, place: str) -> Curve:
    if not isinstance(line, dict):
        raise ConfigurationError(f"{place}: a curve is a JSON object; export the curves again.")
    return Curve(**dict(read_model(_CurveLine, line, place)))


DECADE = 10.0
"""Ratio of largest to smallest value from which a positive hyperparameter is compared on a log scale."""
TRAINABLE = (Ending.COMPLETED, Ending.PRUNED)

Difference = Callable[[Any, Any], float]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordedShape:
    """A recorded curve as arrays of equal length, over the increasing share of its trial that was trained."""

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
        """Return this curve with points appended, at its own seconds per share."""
        pace = self.seconds[-1] / self.shares[-1]
        return _RecordedShape(
            curve=self.curve,
            shares=np.append(self.shares, shares),
            scores=np.append(self.scores, scores),
            seconds=np.append(self.seconds, pace * shares),
        )


class RecordedCurves:
    """Curves of a real study; a configuration gets the curve of the nearest recorded one.

    The distance of two configurations is the sum of the differences of their hyperparameters (Gower 1971). A numeric
    difference is divided by the range among the curves, on a log scale for positive values that span a decade; any
    other difference is 0 or 1. Among equally near curves, such as a default on two seeds, the assignment's seed selects
    one. The curve is stretched to the length of the assignment, and its seconds by the ratio of their passes. A pruned
    curve is continued from its last point in parallel to the nearest completed one.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        """Take the curves, of which at least one must be completed.

        Raises:
            ConfigurationError: none is completed.
        """
        # A trial that was pruned before its first evaluation has no points.
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
        """Return the nearest curve, interpolated at the assignment's milestones."""
        near = self._nearest(self._shapes, assignment.hyperparameters)
        shape = near[assignment.seed % len(near)]
        end, reached = assignment.milestones[-1].rung, max(shape.shares, default=0.0) + 1e-9
        length_ratio = passes_of(assignment.hyperparameters) / passes_of(shape.curve.hyperparameters)
        points = tuple(
            Point(rung=rung, score=shape.score_at(rung / end), seconds=length_ratio * shape.seconds_at(rung / end))
            for rung in (milestone.rung for milestone in assignment.milestones)
            if rung / end <= reached
        )
        return Curve(
            hyperparameters=assignment.hyperparameters,
            length=end,
            points=points,
            ending=Ending.COMPLETED if shape.trainable else shape.curve.ending,
            seconds=points[-1].seconds if shape.trainable else length_ratio * shape.curve.seconds,
        )

    def true_score(self, assignment: Assignment) -> float:
        """Return the best score of the nearest curve, a mean if there are several; NaN if it cannot be trained."""
        near = [shape for shape in self._nearest(self._shapes, assignment.hyperparameters) if shape.trainable]
        return float(np.mean([shape.scores.max() for shape in near])) if near else math.nan

    def _nearest(self, shapes: Sequence[_RecordedShape], hyperparameters: Hyperparameters) -> list[_RecordedShape]:
        apart = [distance(self._differences, shape.curve.hyperparameters, hyperparameters) for shape in shapes]
        return [shape for shape, far in zip(shapes, apart, strict=True) if far <= min(apart) + 1e-12]


def differences(configurations: Iterable[Hyperparameters]) -> dict[str, Difference]:
    """Return hyperparameter -> distance of two of its values, for those that vary, without the seed."""
    rows = [dict(configuration) for configuration in configurations]
    values = {name: [row[name] for row in rows] for name in Hyperparameters.model_fields if name != "seed"}
    return {name: _difference(known) for name, known in values.items() if any(one != known[0] for one in known)}


def distance(apart: Mapping[str, Difference], one: Hyperparameters, other: Hyperparameters) -> float:
    """Return the distance of two configurations; `apart` is the result of `differences`."""
    return sum(difference(getattr(one, name), getattr(other, name)) for name, difference in apart.items())


def _difference(known: Sequence[Any]) -> Difference:
    numbers = [value for value in known if is_number(value)]
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low == high:
        return lambda one, other: float(one != other)
    on_log_scale = low > 0 and high / low >= DECADE

    def difference(one: Any, other: Any) -> float:
        if not (is_number(one) and is_number(other)):
            return float(one != other)
        if on_log_scale and min(one, other) > 0:
            return abs(math.log(one / other)) / math.log(high / low)
        return abs(float(one - other)) / (high - low)

    return difference


def _shape(curve: Curve) -> _RecordedShape:
    return _RecordedShape(
        curve=curve,
        shares=np.array([point.rung / curve.length for point in curve.points]),
        scores=np.array([point.score for point in curve.points]),
        seconds=np.array([point.seconds for point in curve.points]),
    )


def _level(shape: _RecordedShape) -> _RecordedShape:
    """Return a completed curve at full length, constant after early stopping."""
    return shape if shape.shares[-1] >= 1 else shape.followed_by(np.array([1.0]), shape.scores[-1:])


def _continued_along(shape: _RecordedShape, guide: _RecordedShape) -> _RecordedShape:
    """Return a pruned curve continued to full length, in parallel to a completed one."""
    last = shape.shares[-1]
    rest = guide.shares > last
    return shape.followed_by(guide.shares[rest], shape.scores[-1] + guide.scores[rest] - guide.score_at(last))
