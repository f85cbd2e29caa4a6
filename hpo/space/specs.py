"""Parameter specs: the keys of W&B sweeps, read into a domain and written back.

Every value is checked against its field of `Hyperparameters`; text is never read as a number.
"""

import math
from collections.abc import Mapping
from typing import Any

from hpo.config.hyperparameters import checked_value
from hpo.config.other_names import by_name
from hpo.errors import SpaceError, nearest
from hpo.space.domains import (
    Choice,
    Constant,
    Domain,
    Grid,
    Number,
    Range,
    as_yaml,
    grid_number,
    is_number,
    whole_steps,
)

# Keys of each `distribution:`.
KEYS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "int_uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
}
DOMAIN_KEYS = ("distribution", "value", "values", "min", "max", "q")

_ENDS = "which has no smallest and no largest value; write `min:` and `max:`, or the `values:`"
_EXPONENTS = "which takes exponents; write `distribution: log_uniform_values` with the smallest and the largest value"
_LOG_STEPS = "which is not known here; write the `values:`, or `distribution: log_uniform_values` for a real number"
_BETA = "which is not known here; write `min: 0.0` and `max: 1.0`"
# W&B's other distributions: why each is not supported, and what to write instead.
_REFUSED: Mapping[str, str] = by_name(
    ("log_uniform inv_log_uniform", _EXPONENTS),
    ("inv_log_uniform_values", "which is the same as log_uniform_values; write that"),
    ("q_log_uniform q_log_uniform_values", _LOG_STEPS),
    ("normal q_normal log_normal q_log_normal", _ENDS),
    ("beta q_beta", _BETA),
    ("categorical_w_probabilities", "but every value is as likely as the others here; leave distribution out"),
)
# W&B's other keys, likewise.
_REFUSED_KEYS: dict[str, str] = {
    "probabilities": "but every value is as likely as the others here; leave it out",
    "parameters": "but hyperparameters are not nested here; write those in it one level up",
}


def read_domain(name: str, spec: Mapping[str, Any], source: str) -> Domain:
    """Return the values that `spec` gives the hyperparameter `name`.

    Args:
        name: a field of `Hyperparameters`.
        spec: of its keys only `DOMAIN_KEYS` are read.
        source: name of the spec in an error.

    Raises:
        SpaceError: keys that do not go together, an empty range, a value that the field cannot have.
    """
    kind = _distribution(spec, source)
    given = [key for key in DOMAIN_KEYS[1:] if key in spec]
    if set(given) != set(KEYS[kind]):
        raise SpaceError(
            f"{source} is {kind}, which is made of {_listed(KEYS[kind])}, but has {_listed(given)}; "
            "keep to one way of giving its values."
        )
    match kind:
        case "constant":
            return Constant(value=checked_value(name, spec["value"], source))
        case "categorical":
            return _read_choice(name, spec["values"], source)
        case "int_uniform" | "q_uniform":
            return _read_grid(name, spec, source)
    return _read_range(name, spec, source, log=kind == "log_uniform_values")


def refuse_foreign(spec: Mapping[str, Any], source: str) -> None:
    """Refuse the distributions and keys of W&B sweeps that a space does not support, each with its replacement.

    Raises:
        SpaceError: the first of them.
    """
    for key, why in _REFUSED_KEYS.items():
        if key in spec:
            raise SpaceError(f"{source} has {key}, {why}.")
    kind = str(spec.get("distribution"))
    if kind in _REFUSED:
        raise SpaceError(f"{source} has W&B's distribution {kind}, {_REFUSED[kind]}{_exponentials(kind, spec)}.")


def _exponentials(kind: str, spec: Mapping[str, Any]) -> str:
    """Return the end of a message with the values of the exponents of a `log_uniform`, as `min: 1e-05`; else empty."""
    # e**709 is about the largest float.
    exponents = [end for end in (spec.get("min"), spec.get("max")) if is_number(end) and abs(end) <= 709]
    if kind != "log_uniform" or len(exponents) < 2:
        return ""
    if 0 < min(exponents) < max(exponents) < 1:
        return ", here the same `min` and `max`, if they are rates and not exponents"
    low, high = (as_yaml(float(f"{math.exp(end):.3g}")) for end in exponents)
    return f", here `min: {low}` and `max: {high}`"


def _distribution(spec: Mapping[str, Any], source: str) -> str:
    """Return the distribution of `spec`, named or, as in W&B, inferred from its keys."""
    if "distribution" in spec:
        kind = str(spec["distribution"])
        if kind not in KEYS:
            raise SpaceError(f"{source}: unknown distribution {spec['distribution']!r}. {nearest(kind, KEYS)}")
        return kind
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if "min" not in spec and "max" not in spec:
        raise SpaceError(f"{source} has no values; give it `value:`, `values:`, or `min:` and `max:`.")
    whole = type(spec.get("min")) is int and type(spec.get("max")) is int
    return "int_uniform" if whole else "uniform"


def _read_choice(name: str, values: Any, source: str) -> Choice:
    if not isinstance(values, list | tuple) or not values:
        raise SpaceError(f"{source}: values must be a list of at least one value, but is {values!r}.")
    choices = tuple(checked_value(name, value, source) for value in values)
    twice = [value for index, value in enumerate(choices) if value in choices[:index]]
    if twice:
        raise SpaceError(f"{source}: values has {as_yaml(twice[0])} twice; leave one out.")
    return Choice(choices=choices)


def _read_range(name: str, spec: Mapping[str, Any], source: str, *, log: bool) -> Range:
    low, high = _bounds(name, spec, source)
    if isinstance(low, int):
        raise SpaceError(
            f"{source}: {name!r} takes whole numbers; write `distribution: int_uniform`, "
            "`q_uniform` with a whole q, or `values:`."
        )
    if log and low <= 0:
        raise SpaceError(
            f"{source}: log_uniform_values needs a min above 0, but min is {as_yaml(low)}; "
            "take a small one instead, which acts like 0."
        )
    return Range(low=low, high=high, log=log)


def _read_grid(name: str, spec: Mapping[str, Any], source: str) -> Grid:
    low, high = _bounds(name, spec, source)
    if "q" not in spec:
        if low % 1 or high % 1:
            raise SpaceError(
                f"{source}: int_uniform needs a whole min and max, but has {as_yaml(low)} and {as_yaml(high)}; "
                "write `distribution: uniform` for the numbers between."
            )
        return Grid(low=int(low), high=int(high))
    q = spec["q"]
    if not is_number(q) or not q > 0 or whole_steps(low, high, q) < 1:
        raise SpaceError(f"{source}: q must be a number above 0 and at most max - min, but is {q!r}.")
    if isinstance(low, int) and not isinstance(q, int):
        raise SpaceError(f"{source}: {name!r} takes whole numbers, so q must be one, but is {q!r}.")
    last = grid_number(low, q, whole_steps(low, high, q))
    if last != high:
        raise SpaceError(
            f"{source}: steps of {as_yaml(q)} from {as_yaml(low)} do not meet max, {as_yaml(high)}; "
            f"write `max: {as_yaml(last)}`, the last one below it."
        )
    return Grid(low=low, high=high, q=type(low)(q))


def _bounds(name: str, spec: Mapping[str, Any], source: str) -> tuple[Number, Number]:
    """Return min and max, both int or both float, as in the field."""
    low, high = (checked_value(name, spec[key], f"{source}, {key}") for key in ("min", "max"))
    if not is_number(low) or not is_number(high):
        raise SpaceError(f"{source}: min and max must be numbers, but are {as_yaml(low)} and {as_yaml(high)}.")
    if low >= high:
        remedy = (
            f"for a single value write `value: {as_yaml(low)}`"
            if low == high
            else f"swap them: `min: {as_yaml(high)}` and `max: {as_yaml(low)}`"
        )
        raise SpaceError(f"{source}: min must be below max, but they are {as_yaml(low)} and {as_yaml(high)}; {remedy}.")
    return low, high


def _listed(keys: list[str] | tuple[str, ...]) -> str:
    return " and ".join(keys) or "none of them"
