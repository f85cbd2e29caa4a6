"""Extremes of a search space: its configurations that ask the most and the least of a device.

What a trial costs is compared field by field, in the order of `COSTS`: first what it trains, as far as memory goes the
largest difference, then the size of a batch and the length of a trial, then what the optimizer keeps.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from hpo.config.hyperparameters import Hyperparameters, resolved
from hpo.space.domains import Choice, Constant, Value, is_number
from hpo.space.enumeration import Values, combinations_of, every_value
from hpo.space.parameters import Parameter
from hpo.space.search_space import SearchSpace

OPTIMIZER_STATES: Mapping[str, int] = {
    "sgd": 0, "adafactor": 0, "momentum": 1, "nesterov": 1, "lion": 1, "adagrad": 1, "rmsprop": 1, "muon": 1,
    "adam": 2, "adamw": 2, "nadam": 2, "radam": 2, "adamax": 2, "adadelta": 2, "schedule_free_adamw": 2,
}  # fmt: skip
"""Optimizer -> the numbers that it keeps for each weight; of Adafactor, which keeps rows and columns, about none."""


def _number_or_all(value: Value) -> float:
    """Rank null, which stands for all, above any number."""
    return float(value) if is_number(value) else math.inf


METHODS = ("head", "top_layers", "lora", "full")
"""Methods, the cheapest first."""
COSTS: Mapping[str, Callable[[Value], float]] = {
    "method": lambda value: METHODS.index(str(value)),
    **dict.fromkeys(("max_length", "kept_layers", "trained_layers", "batch_size"), _number_or_all),
    **dict.fromkeys(("epochs", "data_fraction"), _number_or_all),
    "optimizer": lambda value: OPTIMIZER_STATES[str(value)],
}
"""Field -> the rank of a value by cost; the field that decides most stands first."""

Signs = Mapping[str, int]
_MOST: Signs = dict.fromkeys(COSTS, 1)
_LEAST: Signs = dict.fromkeys(COSTS, -1)


def dearest(space: SearchSpace) -> Hyperparameters:
    """Return the configuration of `space` that takes the most memory, and the most work."""
    return _extreme(space, _MOST)


def slowest(space: SearchSpace) -> Hyperparameters:
    """Return the dearest configuration but for its batch, the smallest: the most steps, which may leave a GPU idle."""
    return _extreme(space, {**_MOST, "batch_size": -1})


def cheapest(space: SearchSpace) -> Hyperparameters:
    """Return the configuration of `space` that takes the least memory, and the least work."""
    return _extreme(space, _LEAST)


def _extreme(space: SearchSpace, signs: Signs) -> Hyperparameters:
    """Return the configuration that is furthest in the direction of `signs`.

    A parameter that a condition on the way to a cost names takes each of its values, every other one its furthest.
    That they go together is the space's own promise: it has refused whatever could not.
    """
    deciding = _deciding(space)

    def values_of(parameter: Parameter, chosen: Values) -> Iterable[Value]:
        if parameter.name in deciding:
            return every_value(parameter, chosen)
        return (_furthest(parameter, chosen, signs),)

    ways = combinations_of(space.parameters, values_of, {})
    furthest = max(ways, key=lambda values: tuple(_distance(name, values, signs) for name in COSTS))
    return space.hyperparameters(furthest)


def _deciding(space: SearchSpace) -> set[str]:
    """Return the parameters that decide, by conditions, whether one that costs something is active."""
    deciding: set[str] = set()
    # Backwards, since a parameter stands behind those that its conditions name.
    for parameter in reversed(space.parameters):
        if parameter.name in COSTS or parameter.name in deciding:
            deciding |= {condition.parent for condition in parameter.when}
    return deciding


def _furthest(parameter: Parameter, chosen: Values, signs: Signs) -> Value:
    """Return the value at the end that `signs` point to; of equals, and where none costs more, the default."""
    name, domain = parameter.name, parameter.domain
    if name not in COSTS:
        return parameter.default
    ends = domain.values() if isinstance(domain, Constant | Choice) else (domain.low, domain.high)
    return max((parameter.default, *ends), key=lambda value: _distance(name, chosen | {name: value}, signs))


def _distance(name: str, values: Values, signs: Signs) -> float:
    return signs[name] * COSTS[name](resolved(name, values))
