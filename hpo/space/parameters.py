"""Parameters of a search space: domain, condition, default and relative rate, read from the spec of each.

A relative rate is one log-scaled multiplier, which stays in a sampler's joint model; one range per optimizer would not.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, get_origin

from hpo.config.hyperparameters import Hyperparameters, checked_value, deciding_field, resolved
from hpo.errors import Mistakes, SpaceError, nearest
from hpo.space.domains import Constant, Domain, Range, Value, as_yaml, is_number, same
from hpo.space.specs import DOMAIN_KEYS, read_domain, refuse_foreign

# Field -> its value -> factor, a number or nested `Factors`; the base rate is the product of one factor for each field.
Factors = Mapping[str, Mapping[str, Any]]

SAMPLED_NAME = "learning_rate_multiplier"


def read_factors(relative_to: Any, source: str) -> Factors:
    """Return the factors of a `relative_to:`, `{adamw: 3e-5, ...}` or `{optimizer: {...}, method: {...}}`.

    Instead of a number, a factor may itself be such a table, as in `{method: {full: {adamw: 3e-5}, lora: {...}}}`.

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
    # Any factor above 0 is a possible learning rate, and is checked as one.
    return (
        read_factors(factor, source) if isinstance(factor, Mapping) else checked_value("learning_rate", factor, source)
    )


def base_rate(factors: Factors, values: Mapping[str, Value], source: str) -> float:
    """Return the base rate under `values`; other fields have their usual values.

    Raises:
        SpaceError: a value without a factor.
    """
    chosen = {name: resolved(name, values) for name in factors}
    for name, value in chosen.items():
        if value not in factors[name]:
            raise SpaceError(
                f"{source}: relative_to gives no rate for {name} {value}, which this space can take; "
                f"add `{value}: ...` to it."
            )
    each = [factors[name][str(value)] for name, value in chosen.items()]
    return prod(base_rate(factor, values, source) if isinstance(factor, Mapping) else factor for factor in each)


def rate_fields(factors: Factors) -> Iterator[str]:
    """Return the fields that determine the base rate."""
    for name, table in factors.items():
        yield name
        for factor in table.values():
            yield from rate_fields(factor) if isinstance(factor, Mapping) else ()


def describe_factors(factors: Factors) -> str:
    """Return for example `3e-05 (adam, adamw), 0.01 (sgd)`, with a multiplication sign between fields."""
    return " × ".join(_described(table) for table in factors.values())


def _described(table: Mapping[str, Any]) -> str:
    sharing: dict[str, list[str]] = {}
    for value, factor in table.items():
        text = f"[{describe_factors(factor)}]" if isinstance(factor, Mapping) else as_yaml(factor)
        sharing.setdefault(text, []).append(value)
    return ", ".join(f"{text} ({', '.join(values)})" for text, values in sharing.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition: the parameter `parent` is active and has one of `values`; never met if there are none."""

    parent: str
    values: tuple[Value, ...]

    def holds(self, active: Mapping[str, Value]) -> bool:
        """Return true if it holds, given the values of the active parameters."""
        return self.parent in active and any(same(active[self.parent], value) for value in self.values)

    def describe(self) -> str:
        """Return for example `optimizer is momentum or sgd`."""
        return f"{self.parent} is {' or '.join(map(as_yaml, self.values))}"


Conditions = tuple[Condition, ...]


def read_conditions(when: Any, domains: Mapping[str, Domain], source: str) -> Conditions:
    """Return the conditions of a spec's `when:`, all of which must hold.

    Values that the parent cannot have in this space, but in another, are dropped, so that an override may fix the
    parent.

    Args:
        when: a mapping from a parameter of the space to the values it must have; None for no conditions.
        domains: the values of every parameter of the space.
        source: name of the spec in an error.

    Raises:
        SpaceError: an unknown parameter, one without distinct values, or a value that it can have in no space.
    """
    if when is None:
        return ()
    if not isinstance(when, Mapping) or not when:
        raise SpaceError(f"{source}: when must read like {{optimizer: [sgd, momentum]}}, but is {when!r}.")
    return tuple(_read_condition(parent, values, domains, source) for parent, values in when.items())


def _read_condition(parent: Any, values: Any, domains: Mapping[str, Domain], source: str) -> Condition:
    if parent not in domains:
        raise SpaceError(
            f"{source}: when names {parent!r}, which is not a parameter of this space. {nearest(str(parent), domains)}"
        )
    if not isinstance(values, list | tuple) or not values:
        raise SpaceError(f"{source}: when needs a list of values, as in {{{parent}: [...]}}, but has {values!r}.")
    if isinstance(domains[parent], Range):
        raise SpaceError(
            f"{source}: when names {parent!r}, which takes any number of a range; "
            "a condition needs a parameter with distinct values."
        )
    checked = tuple(checked_value(parent, value, f"{source}, when") for value in values)
    return Condition(parent=parent, values=tuple(value for value in checked if domains[parent].contains(value)))


def parents_first(conditions: Mapping[str, Conditions], source: str) -> list[str]:
    """Return the names in order, but each parameter after those that its conditions name.

    Raises:
        SpaceError: conditions form a cycle.
    """
    ordered: list[str] = []
    while len(ordered) < len(conditions):
        waiting = [name for name in conditions if name not in ordered]
        ready = (name for name in waiting if all(one.parent in ordered for one in conditions[name]))
        name = next(ready, None)
        if name is None:
            circle = " -> ".join(_circle(conditions, waiting))
            raise SpaceError(f"{source}: the conditions go round in a circle, {circle}; take one of them away.")
        ordered.append(name)
    return ordered


def _circle(conditions: Mapping[str, Conditions], waiting: list[str]) -> list[str]:
    """Return a cycle among `waiting`, each of which has a parent in `waiting`."""
    path = [waiting[0]]
    while path[-1] not in path[:-1]:
        path.append(next(one.parent for one in conditions[path[-1]] if one.parent in waiting))
    return path[path.index(path[-1]) :]


_SPEC_KEYS = (*DOMAIN_KEYS, "default", "when", "relative_to", "source")
_FIELDS = Hyperparameters.model_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One hyperparameter of a space."""

    name: str
    """Field of `Hyperparameters`."""
    domain: Domain
    """Its values; for a relative learning rate, the multipliers."""
    default: Value
    """Its value in the default configuration, which is in the domain."""
    when: Conditions = ()
    """Conditions that must all hold for it to be active."""
    relative_to: Factors = field(default_factory=dict)
    """Factors of the base rate of a relative learning rate; empty for an absolute value."""
    source: str = field(default="", compare=False)
    """Source of its range, one line, without effect on the search."""

    @property
    def sampled_name(self) -> str:
        """Name under which Optuna samples it."""
        return SAMPLED_NAME if self.relative_to else self.name

    @property
    def is_sampled(self) -> bool:
        """True if Optuna samples it."""
        return not isinstance(self.domain, Constant)

    def active(self, values: Mapping[str, Value]) -> bool:
        """Return true if it is active, given the values of the active parameters before it."""
        return all(condition.holds(values) for condition in self.when)

    def trained(self, values: Mapping[str, Value], place: str) -> Value:
        """Return the value that is trained under `values`, which include its own: for a multiplier, the rate.

        Raises:
            SpaceError: a multiplier without a base rate; `place` is the name of the parameter in the message.
        """
        value = values[self.name]
        if not self.relative_to:
            return value
        assert is_number(value)
        return value * base_rate(self.relative_to, values, place)

    def to_mapping(self) -> dict[str, Any]:
        """Return its full spec, without its source, in plain YAML values."""
        spec = self.domain.spec()
        if self.relative_to:
            spec["relative_to"] = deepcopy(self.relative_to)
        if self.when:
            spec["when"] = {condition.parent: list(condition.values) for condition in self.when}
        return spec | ({"default": self.default} if self.is_sampled else {})

    def describe_values(self) -> str:
        """Return its values, for example `0.03 … 30, log-uniform`."""
        values = self.domain.describe()
        return f"{values}, times {describe_factors(self.relative_to)}" if self.relative_to else values

    def describe_condition(self) -> str:
        """Return its conditions, for example `optimizer is momentum`; empty if it is always active."""
        return " and ".join(condition.describe() for condition in self.when)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A parameter as written, without its default."""

    name: str
    spec: Mapping[str, Any]
    domain: Domain
    when: Conditions
    place: str


def read_parameters(parameters: Mapping[str, Any], space: str) -> tuple[Parameter, ...]:
    """Return the parameters of a space, each after those that its conditions name, otherwise as written.

    Parameters that can never be active are left out. Consistency between parameters is not checked here.

    Args:
        parameters: hyperparameter -> spec, as in docs/search-spaces.md.
        space: the name of the space.

    Raises:
        SpaceError: an invalid spec.
    """
    drafts = _drafts(parameters, space)
    read: dict[str, Parameter] = {}
    mistakes = Mistakes()
    for key in parents_first({key: draft.when for key, draft in drafts.items()}, f"Space {space}"):
        with mistakes.gathered():
            draft = drafts[key]
            relative_to = draft.spec.get("relative_to")
            parameter = Parameter(
                name=key, domain=draft.domain, default=_default(draft, drafts), when=draft.when,
                relative_to=read_factors(relative_to, draft.place) if "relative_to" in draft.spec else {},
                source=_read_source(draft.spec, draft.place),
            )  # fmt: skip
            if all(condition.values and condition.parent in read for condition in parameter.when):
                read[key] = parameter
    mistakes.refuse()
    return tuple(read.values())


def _checked_spec(name: Any, spec: Any, place: str) -> Mapping[str, Any]:
    """Return `spec`, checked: a mapping of known keys for a known hyperparameter."""
    if name not in _FIELDS:
        raise SpaceError(f"{place}: unknown hyperparameter {name!r}. {nearest(str(name), _FIELDS)}")
    if not isinstance(spec, Mapping):
        raise SpaceError(f"{place} is {spec!r}, but must be keys and values; for a constant write `value: {spec}`.")
    refuse_foreign(spec, place)
    unknown = [key for key in spec if key not in _SPEC_KEYS]
    if unknown:
        raise SpaceError(*(f"{place}: unknown key {key!r}. {nearest(str(key), _SPEC_KEYS)}" for key in unknown))
    if "relative_to" in spec and name != "learning_rate":
        raise SpaceError(f"{place}: relative_to is for learning_rate only; leave it out.")
    return spec


def _drafts(specs: Mapping[str, Any], space: str) -> dict[str, _Draft]:
    """Return the parameters as written; raise all errors in their specs at once."""
    places, mistakes = {key: f"Space {space}, {key}" for key in specs}, Mistakes()
    domains: dict[str, Domain] = {}
    for key, spec in specs.items():
        with mistakes.gathered():
            domains[key] = read_domain(key, _checked_spec(key, spec, places[key]), places[key])
    drafts: dict[str, _Draft] = {}
    for key, domain in domains.items():
        when = specs[key].get("when")
        # Conditions on a parent that is itself invalid cannot be checked.
        if isinstance(when, Mapping) and when.keys() & specs.keys() - domains.keys():
            continue
        with mistakes.gathered():
            conditions = read_conditions(when, domains, places[key])
            drafts[key] = _Draft(name=key, spec=specs[key], domain=domain, when=conditions, place=places[key])
    mistakes.refuse()
    return drafts


def _read_source(spec: Mapping[str, Any], place: str) -> str:
    source = spec.get("source", "")
    if not isinstance(source, str) or len(source.splitlines()) > 1:
        raise SpaceError(
            f"{place}: source is {source!r}, but must be one line of text that says where the range comes from."
        )
    return source


def _default(draft: _Draft, drafts: Mapping[str, _Draft]) -> Value:
    """Return the given default, else the first usual value that is in range, else the middle."""
    domain, place = draft.domain, draft.place
    if "default" not in draft.spec:
        usual = [1.0] if "relative_to" in draft.spec else _usual_values(draft.name, draft.when, drafts)
        return next((value for value in usual if value is not None and domain.contains(value)), domain.middle())
    if isinstance(domain, Constant):
        raise SpaceError(f"{place} is a constant and needs no default; leave it out.")
    default: Value = checked_value(draft.name, draft.spec["default"], f"{place}, default")
    if not domain.contains(default):
        raise SpaceError(
            f"{place}: the default {as_yaml(default)} is not among its values, {domain.describe()}; set its `default` "
            "to one of them too."
        )
    return default


def _usual_values(name: str, when: Conditions, drafts: Mapping[str, _Draft]) -> list[Value]:
    """Return the usual values of the field `name` under those conditions, the most likely first."""
    decider = deciding_field(name)
    if decider is None:
        return [resolved(name, {})]
    return [resolved(name, {decider: value}) for value in _likely_values(decider, when, drafts)]


def _likely_values(name: str, when: Conditions, drafts: Mapping[str, _Draft]) -> list[Value]:
    """Return the values that the field `name` can have under those conditions, its default first."""
    if name not in drafts:
        return _usual_values(name, when, drafts)
    draft = drafts[name]
    # The deciding parameter is an optimizer, a schedule or a method.
    assert not isinstance(draft.domain, Range)
    default = _default(draft, drafts)
    named = [value for condition in when if condition.parent == name for value in condition.values]
    return sorted(named or draft.domain.values(), key=lambda value: value != default)
