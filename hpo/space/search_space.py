"""A search space: parameters that Optuna samples, and what they make of one trial's hyperparameters.

Three forms of one configuration, told apart by name throughout:
    values            the active parameters, constants too, by hyperparameter name; a relative learning rate
                      as its multiplier
    sampled           what Optuna holds of them: by the name it samples under, without constants
    Hyperparameters   what is trained: the real learning rate, typed defaults for all that is not searched
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from hpo.config.hyperparameters import APPLIES_TO, Hyperparameters
from hpo.config.reading import read_model
from hpo.errors import SpaceError, nearest
from hpo.space.conditions import Conditions, check_applies, parents_first, read_conditions
from hpo.space.domains import Choice, Constant, Domain, Number, Trial, Value, is_number, spelled
from hpo.space.relative_rate import SAMPLED_NAME, Factors, base_rate, base_rates, describe_factors, read_factors
from hpo.space.specs import DOMAIN_KEYS, domain_spec, field_value, read_domain

_SPEC_KEYS = (*DOMAIN_KEYS, "default", "when", "relative_to")
_FIELDS = Hyperparameters.model_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One hyperparameter of a space."""

    name: str
    """Field of `Hyperparameters`."""
    domain: Domain
    """Its values; of a relative learning rate the multipliers."""
    default: Value
    """Its value in the default configuration; lies in the domain."""
    when: Conditions = ()
    """Conditions that must all hold for it to be active."""
    relative_to: Factors = field(default_factory=dict)
    """What a relative learning rate is a multiple of; empty where the value is meant as it is."""

    @property
    def sampled_name(self) -> str:
        """Name under which Optuna samples it."""
        return SAMPLED_NAME if self.relative_to else self.name

    @property
    def is_sampled(self) -> bool:
        """Whether Optuna is asked for it."""
        return not isinstance(self.domain, Constant)

    def active(self, values: Mapping[str, Value]) -> bool:
        """Return whether it is active, given the values of the active parameters before it."""
        return all(condition.holds(values) for condition in self.when)

    def to_mapping(self) -> dict[str, Any]:
        """Return its spec in full, in plain YAML values."""
        spec = domain_spec(self.domain)
        if self.relative_to:
            spec["relative_to"] = {name: dict(table) for name, table in self.relative_to.items()}
        if self.when:
            spec["when"] = {condition.parent: list(condition.values) for condition in self.when}
        return spec | ({"default": self.default} if self.is_sampled else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One parameter as a table shows it."""

    name: str
    values: str
    """What it can be, for example `0.03 … 30, log-uniform`."""
    condition: str
    """When it is active, for example `optimizer is momentum`; empty for always."""
    default: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The parameters of a search, checked against each other and against `Hyperparameters`."""

    name: str
    parameters: tuple[Parameter, ...]
    """Every parameter after those that its conditions name; otherwise as written."""

    @classmethod
    def from_mapping(cls, parameters: Mapping[str, Any], name: str) -> Self:
        """Read the space that `parameters` spells out, hyperparameter -> spec: see docs/search-spaces.md.

        Raises:
            SpaceError: the first thing that cannot be, in one sentence.
        """
        specs = {key: _checked_spec(key, spec, _source(name, key)) for key, spec in parameters.items()}
        if not specs:
            raise SpaceError(f"Space {name} has no parameters; name at least one hyperparameter to search.")
        domains = {key: read_domain(key, spec, _source(name, key)) for key, spec in specs.items()}
        conditions = {
            key: read_conditions(spec.get("when"), domains, _source(name, key)) for key, spec in specs.items()
        }
        ordered = parents_first(conditions, f"Space {name}")
        read: dict[str, Parameter] = {}
        for key in ordered:
            parameter = _parameter(key, specs[key], domains, conditions[key], _source(name, key))
            # What can never be active in this space is no parameter of it.
            if all(condition.values and condition.parent in read for condition in parameter.when):
                read[key] = parameter
        for key, parameter in read.items():
            _check_with_others(parameter, read, _source(name, key))
        return cls(name=name, parameters=tuple(read.values()))

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Ask `trial`, an `optuna.Trial`, for a configuration; return its values."""
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.active(values):
                values[parameter.name] = parameter.domain.suggest(trial, parameter.sampled_name)
        return values

    def hyperparameters(self, values: Mapping[str, Value]) -> Hyperparameters:
        """Return what is trained under `values`: multipliers resolved, the rest by typed default."""
        resolved = dict(values)
        for parameter in self.parameters:
            multiplier = values.get(parameter.name)
            if parameter.relative_to and is_number(multiplier):
                rate = base_rate(parameter.relative_to, values, _source(self.name, parameter.name))
                resolved[parameter.name] = multiplier * rate
        return read_model(Hyperparameters, resolved, f"Space {self.name}")

    def default_values(self) -> dict[str, Value]:
        """Return the values of the default configuration."""
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.active(values):
                values[parameter.name] = parameter.default
        return values

    def sampled(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return `values` as Optuna holds them, for `Study.enqueue_trial`."""
        return {
            parameter.sampled_name: values[parameter.name]
            for parameter in self.parameters
            if parameter.is_sampled and parameter.name in values
        }

    def from_sampled(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values of a trial of which Optuna holds `params`; the inverse of `sampled`.

        Raises:
            SpaceError: other parameters than this space samples: the trial was made from another space.
        """
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            if not parameter.active(values):
                continue
            if parameter.is_sampled and parameter.sampled_name not in params:
                raise SpaceError(
                    f"Space {self.name} samples {parameter.sampled_name!r} here, but the trial has no such "
                    "parameter: it was made from another space."
                )
            values[parameter.name] = params[parameter.sampled_name] if parameter.is_sampled else parameter.default
        extra = params.keys() - self.sampled(values).keys()
        if extra:
            raise SpaceError(
                f"The trial has the parameter {min(extra)!r}, which space {self.name} does not sample here: "
                "it was made from another space."
            )
        return values

    def largest(self, name: str) -> Number:
        """Return the largest number that the hyperparameter `name`, such as `epochs`, can be in this space.

        Raises:
            SpaceError: an unknown name, or a hyperparameter that is not a number here.
        """
        if name not in _FIELDS:
            raise SpaceError(f"Unknown hyperparameter {name!r}. {nearest(name, _FIELDS)}")
        found: list[Value] = []
        parameters = {parameter.name: parameter for parameter in self.parameters}
        if name in parameters:
            found += _extremes(parameters[name], parameters, _source(self.name, name))
        if name not in parameters or parameters[name].when:
            found.append(_FIELDS[name].default)
        numbers = list(filter(is_number, found))
        if not numbers:
            raise SpaceError(f"Space {self.name} has no largest {name}: it is not a number there.")
        return max(numbers)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain YAML values, the same for equal spaces, which `from_mapping` reads back equal."""
        return {parameter.name: parameter.to_mapping() for parameter in self.parameters}

    def rows(self) -> list[Row]:
        """Return one row for each parameter, for a table."""
        return [_row(parameter) for parameter in self.parameters]


def _source(space: str, parameter: object) -> str:
    return f"Space {space}, {parameter}"


def _checked_spec(name: Any, spec: Any, source: str) -> Mapping[str, Any]:
    """Return `spec`, known to be a mapping of known keys for a known hyperparameter."""
    if name not in _FIELDS:
        raise SpaceError(f"{source}: unknown hyperparameter {name!r}. {nearest(str(name), _FIELDS)}")
    if not isinstance(spec, Mapping):
        raise SpaceError(f"{source} is {spec!r}, but must be keys and values; for a constant write `value: {spec}`.")
    unknown = [key for key in spec if key not in _SPEC_KEYS]
    if unknown:
        raise SpaceError(f"{source}: unknown key {unknown[0]!r}. {nearest(str(unknown[0]), _SPEC_KEYS)}")
    if "relative_to" in spec and name != "learning_rate":
        raise SpaceError(f"{source}: relative_to is for learning_rate only; leave it out.")
    return spec


def _parameter(
    name: str, spec: Mapping[str, Any], domains: Mapping[str, Domain], when: Conditions, source: str
) -> Parameter:
    domain = domains[name]
    factors = read_factors(spec["relative_to"], source) if "relative_to" in spec else {}
    usual = (1.0,) if factors else _usual_values(name, when, domains)
    default = _default(name, spec, domain, usual, source)
    return Parameter(name=name, domain=domain, default=default, when=when, relative_to=factors)


def _usual_values(name: str, when: Conditions, domains: Mapping[str, Domain]) -> list[Value]:
    """Return what the hyperparameter is trained with where nothing is said, under those conditions."""
    if name not in APPLIES_TO:
        return [_FIELDS[name].default]
    parent, usual = APPLIES_TO[name]
    named = [value for condition in when if condition.parent == parent for value in condition.values]
    possible = domains.get(parent, Constant(value=_FIELDS[parent].default))
    return [usual[value] for value in usual if (value in named if named else possible.contains(value))]


def _default(name: str, spec: Mapping[str, Any], domain: Domain, usual: Sequence[Value], source: str) -> Value:
    """Return the given default, else the first usual value that is in range, else the middle."""
    if "default" not in spec:
        return next((value for value in usual if value is not None and domain.contains(value)), domain.middle())
    if isinstance(domain, Constant):
        raise SpaceError(f"{source} is a constant and needs no default; leave it out.")
    default = field_value(name, spec["default"], f"{source}, default")
    if not domain.contains(default):
        raise SpaceError(
            f"{source}: the default {spelled(default)} is not among its values, {domain.describe()}; take one of them."
        )
    return default


def _check_with_others(parameter: Parameter, others: Mapping[str, Parameter], source: str) -> None:
    """Refuse a parameter active where it means nothing, and a multiplier that gives impossible rates."""
    if parameter.name in APPLIES_TO:
        parent, _ = APPLIES_TO[parameter.name]
        check_applies(parameter.name, parameter.when, _possible(parent, others), source)
    if parameter.relative_to:
        for rate in _extremes(parameter, others, source):
            field_value("learning_rate", rate, f"{source}, times its base rate")


def _possible(name: str, parameters: Mapping[str, Parameter]) -> tuple[Value, ...]:
    """Return every value that the hyperparameter `name`, whose values are names, can take."""
    default: Value = _FIELDS[name].default
    if name not in parameters:
        return (default,)
    parameter = parameters[name]
    values = parameter.domain.choices if isinstance(parameter.domain, Choice) else (parameter.default,)
    return (*values, default) if parameter.when and default not in values else values


def _extremes(parameter: Parameter, others: Mapping[str, Parameter], source: str) -> list[Number]:
    """Return the smallest and the largest number it makes of its hyperparameter, if it has numbers."""
    ends = [end for end in (parameter.domain.minimum(), parameter.domain.maximum()) if end is not None]
    if not parameter.relative_to:
        return ends
    possible = {name: _possible(name, others) for name in parameter.relative_to}
    rates = base_rates(parameter.relative_to, possible, source)
    return [end * rate for end, rate in zip(ends, (min(rates), max(rates)), strict=True)]


def _row(parameter: Parameter) -> Row:
    values = parameter.domain.describe()
    if parameter.relative_to:
        values = f"{values}, times {describe_factors(parameter.relative_to)}"
    return Row(
        name=parameter.name,
        values=values,
        condition=" and ".join(condition.describe() for condition in parameter.when),
        default=spelled(parameter.default),
    )
