"""Fitting of configurations to a search space: exactly, or as far as the space allows."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters, checked_value, resolved
from hpo.config.naming import advice
from hpo.errors import ConfigurationError, Mistakes
from hpo.space.domains import Constant, Domain, Range, Value, as_yaml, is_number, same
from hpo.space.parameters import Parameter, base_rate
from hpo.space.search_space import SearchSpace
from hpo.space.translation import translated

DECIDE_RATES = ("method", "optimizer")
"""Hyperparameters whose other values need other learning rates."""


def in_our_names(given: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration with other libraries' names and values translated, and notes.

    Unknown names stay, and counts of steps, whose shares depend on the data.

    Raises:
        SpaceError: what would train something else.
    """
    mistakes = Mistakes()
    done = translated({name: {"value": value} for name, value in given.items()}, source, mistakes)
    mistakes.refuse()
    counts = {one.name: given[one.name] for one in done.counted}
    return {name: spec["value"] for name, spec in done.parameters.items()} | counts, done.notes


def fitted(space: SearchSpace, given: Mapping[str, Any], source: str) -> dict[str, Value]:
    """Return the values of `space` that train exactly the configuration `given`.

    Raises:
        ConfigurationError: a hyperparameter that is unknown, out of range, or fixed to another value.
    """
    wanted = _read(given, source)
    values: dict[str, Value] = {}
    for parameter in _rates_last(space):
        if parameter.active(values):
            values[parameter.name] = _placed(parameter, wanted, values, source)
    made = space.hyperparameters(values)
    for name, value in wanted.items():
        if not same(getattr(made, name), value):
            raise ConfigurationError(
                f"{source}: {name} is {as_yaml(value)}, but with the rest of it the study trains with "
                f"{name} {as_yaml(getattr(made, name))} and varies it no further; write that, or leave {name} out."
            )
    return values


def fitted_portfolio(space: SearchSpace) -> list[dict[str, Value]]:
    """Return the values of the portfolio's configurations in the space, without duplicates and the default."""
    found = [space.default_values()]
    for published in space.portfolio:
        with suppress(ConfigurationError):
            values = fitted(space, published.values, published.source)
            found += [values] if values not in found else []
    return found[1:]


def carried_over(
    space: SearchSpace, configuration: Mapping[str, Any], varied: Collection[str]
) -> dict[str, Value] | str:
    """Return the values of `space` for a configuration that another search has trained.

    A hyperparameter that only this space varies gets the value that was trained, or its default if that is outside. One
    that only the other search varied is dropped, except optimizer and method, because others need other rates.

    Args:
        space: this search's.
        configuration: hyperparameter -> value as trained, including the real learning rate.
        varied: the hyperparameters that the other search varied.

    Returns:
        The values, or the name of a hyperparameter whose value is outside the space.
    """
    values: dict[str, Value] = {}
    for parameter in _rates_last(space):
        if not parameter.active(values):
            continue
        values[parameter.name] = parameter.default
        value = configuration.get(parameter.name)
        applies = value is not None or (parameter.name in configuration and parameter.name not in APPLIES_TO)
        if applies and not isinstance(parameter.domain, Constant):
            found = _as_proposed(parameter.domain, _as_sampled(parameter, value, values))
            if not found and parameter.name in varied:
                return parameter.name
            values[parameter.name] = next(iter(found), parameter.default)
    others = (name for name in DECIDE_RATES if not same(resolved(name, values), resolved(name, configuration)))
    return next(others, values)


def _rates_last(space: SearchSpace) -> list[Parameter]:
    """Return the parameters of a space, multipliers last, because they depend on optimizer and method."""
    return sorted(space.parameters, key=lambda parameter: bool(parameter.relative_to))


def _as_sampled(parameter: Parameter, value: Value, values: Mapping[str, Value]) -> Value:
    """Return a value of a configuration as it is sampled under `values`: for a relative rate, its multiplier."""
    if not parameter.relative_to:
        return value
    assert is_number(value)
    return value / base_rate(parameter.relative_to, values, parameter.name)


def _read(given: Mapping[str, Any], source: str) -> dict[str, Value]:
    """Return the values of `given`, typed, without those that are null because they do not apply."""
    fields, mistakes, read = Hyperparameters.model_fields, Mistakes(), dict[str, Value]()
    for name, value in given.items():
        with mistakes.gathered():
            if name not in fields:
                raise ConfigurationError(f"{source}: unknown hyperparameter {name!r}. {advice(str(name), fields)}")
            if value is not None or name not in APPLIES_TO:
                read[name] = checked_value(name, value, source)
    mistakes.refuse()
    return read


def _placed(parameter: Parameter, wanted: Mapping[str, Value], values: Mapping[str, Value], source: str) -> Value:
    """Return the value of `parameter` for the given configuration, a multiplier for a rate; else its default."""
    if parameter.name not in wanted or isinstance(parameter.domain, Constant):
        return parameter.default
    for known in _as_proposed(parameter.domain, _as_sampled(parameter, wanted[parameter.name], values)):
        return known
    raise ConfigurationError(
        f"{source}: {parameter.name} is {as_yaml(wanted[parameter.name])}, but the study tries "
        f"{_range(parameter, values)}; take one of these, or leave it out."
    )


def _as_proposed(domain: Domain, value: Value) -> list[Value]:
    """Return `value` in the exact form of `domain`, which may differ by rounding; nothing if it is outside."""
    known = (domain.low, domain.high) if isinstance(domain, Range) else domain.values()
    found: list[Value] = [one for one in known if same(one, value)]
    return found or ([value] if domain.contains(value) else [])


def _range(parameter: Parameter, values: Mapping[str, Value]) -> str:
    if not parameter.relative_to:
        return parameter.domain.describe()
    ends, factor = parameter.domain.ends(), base_rate(parameter.relative_to, values, parameter.name)
    assert ends is not None, "a multiplier is a number"
    return f"{ends[0] * factor:.3g} … {ends[1] * factor:.3g} with this optimizer and method"
