"""Command help: no type beside flags, which take no value, and arguments, which name their form."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A group of commands; each is a `Command`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=CommandGroup, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Function], Function]:
        """Return the decorator that adds a command, as that of the base class."""
        return super().command(name, cls=Command, **settings)


class Command(TyperCommand):
    """A command."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters."""
        return _without_types(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """A group of commands, such as `hpo space`, or `hpo` itself."""

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
