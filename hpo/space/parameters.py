"""Parameters of a search space: domain, condition and default of each, read from its spec."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from hpo.config.hyperparameters import Hyperparameters, checked_value, deciding_field, resolved
from hpo.errors import Mistakes, SpaceError, nearest
from hpo.space.conditions import Conditions, parents_first, read_conditions
from hpo.space.domains import Constant, Domain, Range, Value, as_yaml, is_number
from hpo.space.relative_rate import SAMPLED_NAME, Factors, base_rate, describe_factors, read_factors
from hpo.space.specs import DOMAIN_KEYS, read_domain, refuse_foreign

_SPEC_KEYS = (*DOMAIN_KEYS, "default", "when", "relative_to", "source")
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
    """Factors of the base rate of a relative learning rate; empty for an absolute value."""
    source: str = field(default="", compare=False)
    """Source of its range, one line, without effect on the search."""

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

    def trained(self, values: Mapping[str, Value], place: str) -> Value:
        """Return the value that is trained under `values`, its own among them: for a multiplier the rate.

        Raises:
            SpaceError: a multiplier without a base rate; `place` is what to call the parameter then.
        """
        value = values[self.name]
        if not self.relative_to:
            return value
        assert is_number(value)
        return value * base_rate(self.relative_to, values, place)

    def to_mapping(self) -> dict[str, Any]:
        """Return its spec in full, in plain YAML values, all but its source."""
        spec = self.domain.spec()
        if self.relative_to:
            spec["relative_to"] = deepcopy(self.relative_to)
        if self.when:
            spec["when"] = {condition.parent: list(condition.values) for condition in self.when}
        return spec | ({"default": self.default} if self.is_sampled else {})

    def describe_values(self) -> str:
        """Return what it can be, for example `0.03 … 30, log-uniform`."""
        values = self.domain.describe()
        return f"{values}, times {describe_factors(self.relative_to)}" if self.relative_to else values

    def describe_condition(self) -> str:
        """Return when it is active, for example `optimizer is momentum`; empty for always."""
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

    What can never be active is left out. Whether they go together is not checked here.

    Args:
        parameters: hyperparameter -> spec, as docs/search-spaces.md tells.
        space: the name of the space.

    Raises:
        SpaceError: a spec that cannot be.
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
    """Return the parameters as written; raise all mistakes of their specs at once."""
    places, mistakes = {key: f"Space {space}, {key}" for key in specs}, Mistakes()
    domains: dict[str, Domain] = {}
    for key, spec in specs.items():
        with mistakes.gathered():
            domains[key] = read_domain(key, _checked_spec(key, spec, places[key]), places[key])
    drafts: dict[str, _Draft] = {}
    for key, domain in domains.items():
        when = specs[key].get("when")
        # Of a parent that is wrong itself nothing is known.
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
            f"{place}: the default {as_yaml(default)} is not among its values, {domain.describe()}; take one of them."
        )
    return default


def _usual_values(name: str, when: Conditions, drafts: Mapping[str, _Draft]) -> list[Value]:
    """Return the usual values of the field `name` under those conditions, the likeliest first."""
    decider = deciding_field(name)
    if decider is None:
        return [resolved(name, {})]
    return [resolved(name, {decider: value}) for value in _likely_values(decider, when, drafts)]


def _likely_values(name: str, when: Conditions, drafts: Mapping[str, _Draft]) -> list[Value]:
    """Return the values that the field `name` can have under those conditions, its default the first."""
    if name not in drafts:
        return _usual_values(name, when, drafts)
    draft = drafts[name]
    # What decides is an optimizer, a schedule or a method.
    assert not isinstance(draft.domain, Range)
    default = _default(draft, drafts)
    named = [value for condition in when if condition.parent == name for value in condition.values]
    return sorted(named or draft.domain.values(), key=lambda value: value != default)
