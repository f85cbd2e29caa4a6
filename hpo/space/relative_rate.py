"""Relative learning rate: a sampled multiple of the base rate of the trial's own optimizer and method.

One log-scaled multiplier stays in a sampler's joint model; a range for each optimizer would fall out of it.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Literal, get_origin

from hpo.config.hyperparameters import Hyperparameters, checked_value, resolved
from hpo.errors import SpaceError, nearest
from hpo.space.domains import Value, as_yaml

# Field -> its value -> factor, a number or `Factors` again; the base rate is the product of one factor for each field.
Factors = Mapping[str, Mapping[str, Any]]

SAMPLED_NAME = "learning_rate_multiplier"


def read_factors(relative_to: Any, source: str) -> Factors:
    """Return the factors of a `relative_to:`, `{adamw: 3e-5, ...}` or `{optimizer: {...}, method: {...}}`.

    In place of a number a factor may be such tables itself, as in `{method: {full: {adamw: 3e-5}, lora: {...}}}`.

    Raises:
        SpaceError: another shape, a field whose values are not names, an unknown name, a factor not above 0.
    """
    if not isinstance(relative_to, Mapping) or not relative_to:
        raise SpaceError(f"{source}: relative_to must read like {{adamw: 3e-5, sgd: 1e-2}}, but is {relative_to!r}.")
    nested = any(isinstance(table, Mapping) for table in relative_to.values())
    tables = relative_to if nested else {"optimizer": relative_to}
    return {field: _read_table(field, table, source) for field, table in tables.items()}


def _read_table(field: Any, table: Any, source: str) -> dict[str, Any]:
    fields = Hyperparameters.model_fields.items()
    named = [name for name, info in fields if get_origin(info.annotation) is Literal]
    if field not in named:
        raise SpaceError(f"{source}: relative_to cannot follow {field!r}. {nearest(str(field), named)}")
    if not isinstance(table, Mapping):
        raise SpaceError(f"{source}: relative_to needs a rate for each {field}, but has {table!r}.")
    own = [value for value, factor in table.items() if isinstance(factor, Mapping)]
    if own and len(own) < len(table):
        raise SpaceError(
            f"{source}: relative_to gives rates for {', '.join(own)} and a single number for another {field}; give "
            f"rates for each {field}, or a number for each."
        )
    return {
        str(checked_value(field, value, f"{source}, relative_to")): _read_factor(
            factor, f"{source}, relative_to {value}"
        )
        for value, factor in table.items()
    }


def _read_factor(factor: Any, source: str) -> Any:
    # Any factor above 0 is a possible learning rate, and so is checked as one.
    return (
        read_factors(factor, source) if isinstance(factor, Mapping) else checked_value("learning_rate", factor, source)
    )


def base_rate(factors: Factors, values: Mapping[str, Value], source: str) -> float:
    """Return the base rate under `values`; other fields have their usual values.

    Raises:
        SpaceError: a value without a factor.
    """
    chosen = {field: resolved(field, values) for field in factors}
    for field, value in chosen.items():
        if value not in factors[field]:
            raise SpaceError(
                f"{source}: relative_to gives no rate for {field} {value}, which this space can take; "
                f"add `{value}: ...` to it."
            )
    each = [factors[field][str(value)] for field, value in chosen.items()]
    return prod(base_rate(factor, values, source) if isinstance(factor, Mapping) else factor for factor in each)


def rate_fields(factors: Factors) -> Iterator[str]:
    """Return the fields that decide the base rate."""
    for field, table in factors.items():
        yield field
        for factor in table.values():
            yield from rate_fields(factor) if isinstance(factor, Mapping) else ()


def describe_factors(factors: Factors) -> str:
    """Return for example `3e-05 (adam, adamw), 0.01 (sgd)`, the fields set apart by a multiplication sign."""
    return " × ".join(_described(table) for table in factors.values())


def _described(table: Mapping[str, Any]) -> str:
    sharing: dict[str, list[str]] = {}
    for value, factor in table.items():
        said = f"[{describe_factors(factor)}]" if isinstance(factor, Mapping) else as_yaml(factor)
        sharing.setdefault(said, []).append(value)
    return ", ".join(f"{said} ({', '.join(values)})" for said, values in sharing.items())
