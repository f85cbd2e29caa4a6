"""Relative learning rate: a sampled multiple of the base rate of the trial's own optimizer and method.

One log-scaled multiplier stays in a sampler's joint model; a range for each optimizer would fall out of it.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Literal, get_origin

from hpo.config.hyperparameters import Hyperparameters, checked_value, resolved
from hpo.errors import SpaceError, nearest
from hpo.space.domains import Value, as_yaml

# Field -> its value -> factor; the base rate is the product of one factor for each field.
Factors = Mapping[str, Mapping[str, float]]

SAMPLED_NAME = "learning_rate_multiplier"


def read_factors(relative_to: Any, source: str) -> Factors:
    """Return the factors of a `relative_to:`, `{adamw: 3e-5, ...}` or `{optimizer: {...}, method: {...}}`.

    Raises:
        SpaceError: another shape, a field whose values are not names, an unknown name, a factor not above 0.
    """
    if not isinstance(relative_to, Mapping) or not relative_to:
        raise SpaceError(f"{source}: relative_to must read like {{adamw: 3e-5, sgd: 1e-2}}, but is {relative_to!r}.")
    nested = any(isinstance(table, Mapping) for table in relative_to.values())
    tables = relative_to if nested else {"optimizer": relative_to}
    return {field: _read_table(field, table, source) for field, table in tables.items()}


def _read_table(field: Any, table: Any, source: str) -> dict[str, float]:
    fields = Hyperparameters.model_fields.items()
    named = [name for name, info in fields if get_origin(info.annotation) is Literal]
    if field not in named:
        raise SpaceError(f"{source}: relative_to cannot follow {field!r}. {nearest(str(field), named)}")
    if not isinstance(table, Mapping):
        raise SpaceError(f"{source}: relative_to needs a rate for each {field}, but has {table!r}.")
    # Any factor above 0 is a possible learning rate, and so is checked as one.
    return {
        str(checked_value(field, value, f"{source}, relative_to")): checked_value(
            "learning_rate", factor, f"{source}, relative_to {value}"
        )
        for value, factor in table.items()
    }


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
    return prod(factors[field][str(value)] for field, value in chosen.items())


def describe_factors(factors: Factors) -> str:
    """Return for example `3e-05 (adam, adamw), 0.01 (sgd)`, the fields set apart by a multiplication sign."""
    return " × ".join(_described(table) for table in factors.values())


def _described(table: Mapping[str, float]) -> str:
    sharing = {factor: [value for value in table if table[value] == factor] for factor in table.values()}
    return ", ".join(f"{as_yaml(factor)} ({', '.join(values)})" for factor, values in sharing.items())
