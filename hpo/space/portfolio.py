"""Portfolio of a search space: published configurations, each with its source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpo.config.hyperparameters import Hyperparameters, checked_value
from hpo.errors import Mistakes, SpaceError, nearest
from hpo.space.domains import Value

PORTFOLIO = "portfolio"
"""Key of a space, next to its hyperparameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedConfiguration:
    """Hyperparameters that were published together; all others have their values in the default configuration."""

    source: str
    """Publication, in one line."""
    values: Mapping[str, Value]
    """Hyperparameter -> value, including the real learning rate."""


def read_portfolio(given: Any, space: str) -> tuple[PublishedConfiguration, ...]:
    """Return the configurations of a space's `portfolio:`, in order.

    Raises:
        SpaceError: not a list of configurations with sources, an unknown hyperparameter, or an invalid value.
    """
    place = f"Space {space}, {PORTFOLIO}"
    if not isinstance(given, Sequence) or not all(isinstance(one, Mapping) for one in given):
        raise SpaceError(f"{place} is {given!r}, but must be a list of configurations, `- {{source: ..., NAME: ...}}`.")
    mistakes, read = Mistakes(), []
    for one in given:
        with mistakes.gathered():
            read.append(_read(one, place))
    mistakes.refuse()
    return tuple(read)


def _read(given: Mapping[str, Any], place: str) -> PublishedConfiguration:
    source, fields = given.get("source"), Hyperparameters.model_fields
    if not isinstance(source, str) or len(source.splitlines()) != 1:
        raise SpaceError(f"{place}: each configuration needs a `source`, one line of text, but has {source!r}.")
    values = {name: value for name, value in given.items() if name != "source"}
    if unknown := [str(name) for name in values if name not in fields]:
        raise SpaceError(*(f"{place}: unknown hyperparameter {name!r}. {nearest(name, fields)}" for name in unknown))
    checked = {name: checked_value(name, value, f"{place}, {source}") for name, value in values.items()}
    return PublishedConfiguration(source=source, values=checked)
