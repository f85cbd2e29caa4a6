"""Verbs with a help that names the form of a value where there is one: no type beside flags and named arguments."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., Any])


class Verbs(typer.Typer):
    """A group of verbs; each is a `Verb`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Return the decorator that adds a verb, as that of the base class."""
        return super().command(name, cls=Verb, **settings)


class Verb(TyperCommand):
    """A verb."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """A group of verbs, such as `hpo space`, or `hpo` itself."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: Iterable[Any]) -> list[Any]:
    """Take types such as <bool> and <list[str]> out of the help on flags and on arguments, which name their form."""
    found = list(parameters)
    for parameter in found:
        if getattr(parameter, "is_bool_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument":
            parameter.display_type_rich = _no_type
    return found


def _no_type(**_: object) -> str:
    return ""
