"""A metric of the user's own, named `module:function`: found, tried before any training, and called."""

import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from hpo.errors import ConfigurationError, TrainingError, nearest
from hpo.metrics.tally import Floats, Integers

TRIED_ROWS = 2
"""Rows of each class in the try before training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMetric:
    """The user's function, and what it asks for."""

    spec: str
    """`module:function`."""
    function: Callable[..., Any]
    label_names: tuple[str, ...]
    parameters: frozenset[str]
    """Names of its parameters."""

    def __call__(self, true: Integers, probabilities: Floats) -> float:
        """Call it as `function(true, predicted)`, with the names of the true and of the likeliest classes.

        Args:
            true: class numbers, shape (rows,).
            probabilities: shape (rows, classes); handed on where it has a parameter of that name.

        Raises:
            TrainingError: it raises an error, or returns no finite number.
        """
        names = np.array(self.label_names)
        offered = {"probabilities": probabilities, "labels": list(self.label_names)}
        asked = {name: value for name, value in offered.items() if name in self.parameters}
        try:
            answer = self.function(names[true], names[probabilities.argmax(axis=1)], **asked)
        except Exception as error:
            told = f"raised {type(error).__name__} on {len(true)} rows: {' '.join(str(error).split())}"
            raise TrainingError(f"task.metric {self.spec!r} {told.rstrip('.: ')}.") from error
        if not isinstance(answer, Real) or not math.isfinite(answer):
            raise TrainingError(
                f"task.metric {self.spec!r} must return one finite number, but on {len(true)} rows it returned "
                f"{_spoken(answer)}."
            )
        return float(answer)


def load_own_metric(spec: str, label_names: Sequence[str]) -> OwnMetric:
    """Find `module:function`, also in the working folder, and try it on a few rows, all predicted right and all wrong.

    Raises:
        ConfigurationError: there is no such module or function, it fails on the try, or is higher for what is wrong.
    """
    function = _function(spec)
    metric = OwnMetric(spec=spec, function=function, label_names=tuple(label_names), parameters=_parameters(function))
    certain = np.eye(len(label_names)).repeat(TRIED_ROWS, axis=0)
    true = certain.argmax(axis=1)
    try:
        right, wrong = metric(true, certain), metric(true, np.roll(certain, TRIED_ROWS, axis=0))
    except TrainingError as error:
        raise ConfigurationError(
            f"{error} That was a try with {TRIED_ROWS} rows of each label, all predicted right, then all wrong; it is "
            "called as function(true, predicted), with arrays of label names."
        ) from error
    if wrong > right:
        raise ConfigurationError(
            f"task.metric {spec!r} is {right:g} where all labels are predicted right and {wrong:g} where all are "
            "wrong, but the objective is maximised; name a function that returns the negative of it."
        )
    return metric


def _function(spec: str) -> Callable[..., Any]:
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ConfigurationError(
            f"task.metric is {spec!r}, but a metric of your own is written module:function, as in "
            "sklearn.metrics:cohen_kappa_score."
        )
    module = _module(module_name, spec)
    if not hasattr(module, name):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise ConfigurationError(
            f"task.metric is {spec!r}, but module {module_name!r} has no {name!r}. {nearest(name, public)}"
        )
    function: object = getattr(module, name)
    if not callable(function):
        raise ConfigurationError(
            f"task.metric is {spec!r}, but that is {_spoken(function)}; name a function that is called as "
            "function(true, predicted)."
        )
    return function


def _module(name: str, spec: str) -> ModuleType:
    folder = str(Path.cwd())
    # At the end and for good: what is installed comes first, and the module may import its neighbours later.
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(spec, error) from error
        raise ConfigurationError(
            f"task.metric is {spec!r}, but there is no module {error.name!r}, neither installed nor in the working "
            f"folder {folder}; write its name without .py, and start hpo where it lies."
        ) from error
    except Exception as error:
        raise _broken(spec, error) from error


def _broken(spec: str, error: Exception) -> ConfigurationError:
    told = " ".join(str(error).split()).rstrip(".")
    return ConfigurationError(
        f"task.metric is {spec!r}, but its module cannot be imported: {type(error).__name__}: {told}."
    )


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:
        # Some functions written in C do not tell theirs: they have none of ours.
        return frozenset()


def _spoken(value: object) -> str:
    """Say what a value is that is not what it should be."""
    return f"{value}" if value is None or isinstance(value, Real) else f"a value of type {type(value).__name__}"
