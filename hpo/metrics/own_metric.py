"""User-defined metric, named `module:function`: found, tested before any training, and called."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from hpo.errors import ConfigurationError, TrainingError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnMetric:
    """The user's function and its parameters."""

    spec: str
    """`module:function`."""
    function: Callable[..., Any]
    parameters: frozenset[str]
    """Names of its parameters."""

    def __call__(self, true: NDArray[Any], predicted: NDArray[Any], **others: Any) -> float:
        """Call it as `function(true, predicted)`, with those of `others` that it has parameters for.

        Args:
            true: label names, or numbers; shape (rows,).
            predicted: label names, or numbers; shape (rows,).

        Raises:
            TrainingError: it raises an error, or does not return one finite number.
        """
        rows = len(true)
        try:
            answer = self.function(true, predicted, **{name: others[name] for name in self.parameters & others.keys()})
        except Exception as error:
            description = f"raised {type(error).__name__} on {rows} rows: {' '.join(str(error).split())}"
            raise TrainingError(f"task.metric {self.spec!r} {description.rstrip('.: ')}.") from error
        if not isinstance(answer, Real) or not math.isfinite(answer):
            raise TrainingError(
                f"task.metric {self.spec!r} must return one finite number, but on {rows} rows it returned "
                f"{_described(answer)}."
            )
        return float(answer)


def load_own_metric(spec: str, right: Mapping[str, Any], wrong: Mapping[str, Any], description: str) -> OwnMetric:
    """Find `module:function`, also in the working folder, and test it on a few rows, all predicted right and all wrong.

    Args:
        spec: as the user wrote it.
        right: arguments of a call: some rows, each predicted right.
        wrong: the same, predicted wrong.
        description: description of these rows, and of the arrays, for messages.

    Raises:
        ConfigurationError: the module or function does not exist, fails on the test, or scores wrong predictions
            higher.
    """
    function = find_function(spec)
    metric = OwnMetric(spec=spec, function=function, parameters=_parameters(function))
    try:
        of_right, of_wrong = metric(**right), metric(**wrong)
    except TrainingError as error:
        raise ConfigurationError(f"{error} That was a try with {description}.") from error
    if of_wrong > of_right:
        raise ConfigurationError(
            f"task.metric {spec!r} is {of_right:g} where all labels are predicted right and {of_wrong:g} where all are "
            "wrong, but a metric is maximised; name a function that returns the negative of it."
        )
    return metric


def find_function(spec: str) -> Callable[..., Any]:
    """Return the function that `module:function` names, found in the working folder too.

    Raises:
        ConfigurationError: there is none, or its module cannot be imported.
    """
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
            f"task.metric is {spec!r}, but that is {_described(function)}; name a function that is called as "
            "function(true, predicted)."
        )
    return function


def _module(name: str, spec: str) -> ModuleType:
    folder = str(Path.cwd())
    # Appended for good: installed packages come first, and the module may import its neighbours later.
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
    description = " ".join(str(error).split()).rstrip(".")
    return ConfigurationError(
        f"task.metric is {spec!r}, but its module cannot be imported: {type(error).__name__}: {description}."
    )


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except ValueError:
        # Some functions written in C do not expose theirs; they have none of the optional parameters.
        return frozenset()


def _described(value: object) -> str:
    """Describe a value that is not one finite number."""
    return f"{value}" if value is None or isinstance(value, Real) else f"a value of type {type(value).__name__}"
