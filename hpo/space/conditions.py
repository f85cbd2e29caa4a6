"""Conditional parameters: `when: {optimizer: [sgd, momentum]}`, and an order with parents first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpo.config.hyperparameters import checked_value
from hpo.errors import SpaceError, nearest
from hpo.space.domains import Domain, Range, Value, as_yaml, same


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition: the parameter `parent` is active and has one of `values`; never met if there are none."""

    parent: str
    values: tuple[Value, ...]

    def holds(self, active: Mapping[str, Value]) -> bool:
        """Return whether it holds, given the values of the active parameters."""
        return self.parent in active and any(same(active[self.parent], value) for value in self.values)

    def describe(self) -> str:
        """Return for example `optimizer is momentum or sgd`."""
        return f"{self.parent} is {' or '.join(map(as_yaml, self.values))}"


Conditions = tuple[Condition, ...]


def read_conditions(when: Any, domains: Mapping[str, Domain], source: str) -> Conditions:
    """Return the conditions of a spec's `when:`, all of which must hold.

    Values that the parent can have in some space, but not in this one, are dropped: so a space stays whole where an
    override fixes the parent.

    Args:
        when: a mapping from a parameter of the space to the values it must have; None for no conditions.
        domains: the values of every parameter of the space.
        source: what to call the spec in an error.

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
    """Return the names in their order, but each parameter after those that its conditions name.

    Raises:
        SpaceError: conditions that go round in a circle.
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
    """Return a circle among `waiting`, each of which has a parent that waits too."""
    path = [waiting[0]]
    while path[-1] not in path[:-1]:
        path.append(next(one.parent for one in conditions[path[-1]] if one.parent in waiting))
    return path[path.index(path[-1]) :]
