"""Fitting of configurations into a search space: exactly, or as far as the space goes."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters, checked_value, resolved
from hpo.config.naming import advice
from hpo.errors import ConfigurationError
from hpo.space.domains import Constant, Domain, Range, Value, as_yaml, is_number, same
from hpo.space.parameters import Parameter, base_rate
from hpo.space.search_space import SearchSpace

DECIDE_RATES = ("method", "optimizer")
"""Hyperparameters under another value of which no learning rate is as good as it was."""


def fitted(space: SearchSpace, given: Mapping[str, Any], source: str) -> dict[str, Value]:
    """Return the values of `space` that train exactly the configuration `given`.

    Raises:
        ConfigurationError: a hyperparameter that is not known, out of range, or fixed to something else.
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
    """Return the values of the configurations of a space's portfolio that it has, each once and without its default."""
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

    A hyperparameter that only this space varies has the value that was trained, or its default where that lies outside.
    One that only the other search varied is dropped, but for optimizer and method: another one takes other rates.

    Args:
        space: this search's.
        configuration: hyperparameter -> value as trained, the real learning rate among them.
        varied: the hyperparameters that the other search varied.

    Returns:
        The values; the name of the hyperparameter where one lies outside of the space.
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
    """Return the parameters of a space; a multiplier follows from the rate, the optimizer and the method."""
    return sorted(space.parameters, key=lambda parameter: bool(parameter.relative_to))


def _as_sampled(parameter: Parameter, value: Value, values: Mapping[str, Value]) -> Value:
    """Return a value of a configuration as it is sampled under `values`: of a relative rate its multiplier."""
    if not parameter.relative_to:
        return value
    assert is_number(value)
    return value / base_rate(parameter.relative_to, values, parameter.name)


def _read(given: Mapping[str, Any], source: str) -> dict[str, Value]:
    """Return the values of `given`, typed, without those that are null because they do not apply."""
    fields = Hyperparameters.model_fields
    for name in given:
        if name not in fields:
            raise ConfigurationError(f"{source}: unknown hyperparameter {name!r}. {advice(str(name), fields)}")
    return {
        name: checked_value(name, value, source)
        for name, value in given.items()
        if value is not None or name not in APPLIES_TO
    }


def _placed(parameter: Parameter, wanted: Mapping[str, Value], values: Mapping[str, Value], source: str) -> Value:
    """Return the value of `parameter` for what is wanted, a multiplier for a rate; its default where nothing is."""
    if parameter.name not in wanted or isinstance(parameter.domain, Constant):
        return parameter.default
    for known in _as_proposed(parameter.domain, _as_sampled(parameter, wanted[parameter.name], values)):
        return known
    raise ConfigurationError(
        f"{source}: {parameter.name} is {as_yaml(wanted[parameter.name])}, but the study tries "
        f"{_range(parameter, values)}; take one of these, or leave it out."
    )


def _as_proposed(domain: Domain, value: Value) -> list[Value]:
    """Return `value` as `domain` itself has it, equal but for rounding; nothing where it lies outside."""
    known = (domain.low, domain.high) if isinstance(domain, Range) else domain.values()
    found: list[Value] = [one for one in known if same(one, value)]
    return found or ([value] if domain.contains(value) else [])


def _range(parameter: Parameter, values: Mapping[str, Value]) -> str:
    if not parameter.relative_to:
        return parameter.domain.describe()
    ends, factor = parameter.domain.ends(), base_rate(parameter.relative_to, values, parameter.name)
    assert ends is not None, "a multiplier is a number"
    return f"{ends[0] * factor:.3g} … {ends[1] * factor:.3g} with this optimizer and method"
