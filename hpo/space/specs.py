"""Parameter specs: the keys of W&B sweeps, read into a domain and written back.

Every value is held against the field of `Hyperparameters` that it is for; no text is taken for a number.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import ConfigDict, create_model

from hpo.config.hyperparameters import Hyperparameters
from hpo.config.reading import Typed, read_model
from hpo.errors import ConfigurationError, SpaceError, nearest
from hpo.space import domains
from hpo.space.domains import Domain, Number, Value, as_yaml, is_number

# The keys that each `distribution:` is made of.
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
# W&B's other distributions: why each cannot be, and what to write.
_REFUSED: dict[str, str] = {
    "log_uniform": _EXPONENTS,
    "inv_log_uniform": _EXPONENTS,
    "inv_log_uniform_values": "which is the same as log_uniform_values; write that",
    "q_log_uniform": _LOG_STEPS,
    "q_log_uniform_values": _LOG_STEPS,
    "normal": _ENDS,
    "q_normal": _ENDS,
    "log_normal": _ENDS,
    "q_log_normal": _ENDS,
    "beta": _BETA,
    "q_beta": _BETA,
    "categorical_w_probabilities": "but every value is as likely as the others here; leave distribution out",
}
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
        source: what to call the spec in an error.

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
    return _READERS[kind](name, spec, source)


def refuse_foreign(spec: Mapping[str, Any], source: str) -> None:
    """Refuse the distributions and keys of W&B sweeps that a space does not have, each with what to write instead.

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
    """Return what the exponents of a `log_uniform` come to, if they can be told: ``, here `min: 1e-05` and ...``."""
    # e**709 is the largest number there is.
    exponents = [end for end in (spec.get("min"), spec.get("max")) if is_number(end) and abs(end) <= 709]
    if kind != "log_uniform" or len(exponents) < 2:
        return ""
    if 0 < min(exponents) < max(exponents) < 1:
        return ", here the same `min` and `max`, if they are rates and not exponents"
    low, high = (as_yaml(float(f"{math.exp(end):.3g}")) for end in exponents)
    return f", here `min: {low}` and `max: {high}`"


def domain_spec(domain: Domain) -> dict[str, Any]:
    """Return the plain keys and values that `read_domain` reads back as an equal domain."""
    match domain:
        case domains.Constant():
            return {"value": domain.value}
        case domains.Choice():
            return {"values": list(domain.choices)}
        case domains.Uniform():
            kind = "uniform"
        case domains.LogUniform():
            kind = "log_uniform_values"
        case domains.IntUniform():
            kind = "int_uniform"
        case domains.Quantized():
            return {"distribution": "q_uniform", "min": domain.low, "max": domain.high, "q": domain.q}
    return {"distribution": kind, "min": domain.low, "max": domain.high}


def checked_value(name: str, value: Any, source: str) -> Value:
    """Return `value` as the field `name` holds it (1 as 1.0 where it is a float), or raise a `SpaceError`."""
    try:
        checked: Value = getattr(read_model(_strict_field(name), {name: value}, source), name)
    except ConfigurationError as error:
        raise SpaceError(str(error)) from None
    return checked


@cache
def _strict_field(name: str) -> type[Typed]:
    """Return a model of that one field, so that a value is checked without the others."""
    field = Hyperparameters.model_fields[name]
    return create_model(name, __base__=_Strict, **{name: (field.annotation, field)})  # type: ignore[call-overload, no-any-return]


class _Strict(Typed):
    """No `"8"` for 8, no `true` for 1."""

    model_config = ConfigDict(strict=True)


def _distribution(spec: Mapping[str, Any], source: str) -> str:
    """Return the distribution of `spec`, named or, as in W&B, told from its keys."""
    if "distribution" in spec:
        return _named_distribution(spec["distribution"], source)
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical"
    if "min" not in spec and "max" not in spec:
        raise SpaceError(f"{source} has no values; give it `value:`, `values:`, or `min:` and `max:`.")
    whole = type(spec.get("min")) is int and type(spec.get("max")) is int
    return "int_uniform" if whole else "uniform"


def _named_distribution(kind: Any, source: str) -> str:
    if str(kind) not in KEYS:
        raise SpaceError(f"{source}: unknown distribution {kind!r}. {nearest(str(kind), KEYS)}")
    return str(kind)


def _read_constant(name: str, spec: Mapping[str, Any], source: str) -> domains.Constant:
    return domains.Constant(value=checked_value(name, spec["value"], source))


def _read_choice(name: str, spec: Mapping[str, Any], source: str) -> domains.Choice:
    values = spec["values"]
    if not isinstance(values, list | tuple) or not values:
        raise SpaceError(f"{source}: values must be a list of at least one value, but is {values!r}.")
    choices = tuple(checked_value(name, value, source) for value in values)
    twice = [value for index, value in enumerate(choices) if value in choices[:index]]
    if twice:
        raise SpaceError(f"{source}: values has {as_yaml(twice[0])} twice; leave one out.")
    return domains.Choice(choices=choices)


def _read_uniform(name: str, spec: Mapping[str, Any], source: str) -> domains.Uniform:
    low, high = _real_bounds(name, spec, source)
    return domains.Uniform(low=low, high=high)


def _read_log_uniform(name: str, spec: Mapping[str, Any], source: str) -> domains.LogUniform:
    low, high = _real_bounds(name, spec, source)
    if low <= 0:
        raise SpaceError(
            f"{source}: log_uniform_values needs a min above 0, but min is {as_yaml(low)}; "
            "take a small one instead, which acts like 0."
        )
    return domains.LogUniform(low=low, high=high)


def _read_int_uniform(name: str, spec: Mapping[str, Any], source: str) -> domains.IntUniform:
    low, high = _bounds(name, spec, source)
    if low % 1 or high % 1:
        raise SpaceError(
            f"{source}: int_uniform needs a whole min and max, but has {as_yaml(low)} and {as_yaml(high)}; "
            "write `distribution: uniform` for the numbers between."
        )
    return domains.IntUniform(low=int(low), high=int(high))


def _read_quantized(name: str, spec: Mapping[str, Any], source: str) -> domains.Quantized:
    low, high = _bounds(name, spec, source)
    q = spec["q"]
    if not is_number(q) or not q > 0 or domains.whole_steps(low, high, q) < 1:
        raise SpaceError(f"{source}: q must be a number above 0 and at most max - min, but is {q!r}.")
    if isinstance(low, int) and not isinstance(q, int):
        raise SpaceError(f"{source}: {name!r} takes whole numbers, so q must be one, but is {q!r}.")
    last = domains.grid_number(low, q, domains.whole_steps(low, high, q))
    if last != high:
        raise SpaceError(
            f"{source}: steps of {as_yaml(q)} from {as_yaml(low)} do not meet max, {as_yaml(high)}; "
            f"write `max: {as_yaml(last)}`, the last one below it."
        )
    return domains.Quantized(low=low, high=high, q=type(low)(q))


_READERS: dict[str, Callable[[str, Mapping[str, Any], str], Domain]] = {
    "constant": _read_constant,
    "categorical": _read_choice,
    "uniform": _read_uniform,
    "log_uniform_values": _read_log_uniform,
    "int_uniform": _read_int_uniform,
    "q_uniform": _read_quantized,
}


def _bounds(name: str, spec: Mapping[str, Any], source: str) -> tuple[Number, Number]:
    """Return min and max, both int or both float as the field has it."""
    low, high = (checked_value(name, spec[key], f"{source}, {key}") for key in ("min", "max"))
    if not is_number(low) or not is_number(high):
        raise SpaceError(f"{source}: min and max must be numbers, but are {as_yaml(low)} and {as_yaml(high)}.")
    if low >= high:
        raise SpaceError(
            f"{source}: min must be below max, but they are {as_yaml(low)} and {as_yaml(high)}; "
            f"for a single value write `value: {as_yaml(low)}`."
        )
    return low, high


def _real_bounds(name: str, spec: Mapping[str, Any], source: str) -> tuple[float, float]:
    """Return min and max of a field that takes the numbers between."""
    low, high = _bounds(name, spec, source)
    if isinstance(low, int):
        raise SpaceError(
            f"{source}: {name!r} takes whole numbers; write `distribution: int_uniform`, "
            "`q_uniform` with a whole q, or `values:`."
        )
    return low, high


def _listed(keys: list[str] | tuple[str, ...]) -> str:
    return " and ".join(keys) or "none of them"
