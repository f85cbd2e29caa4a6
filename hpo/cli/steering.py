"""`hpo enqueue` and `hpo stop`: what a person says to a search from another terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hpo.cli import options
from hpo.config.reading import parse_yaml, read_yaml_mapping
from hpo.errors import ConfigurationError


def enqueue(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [HYPERPARAMETER=VALUE]...",
            help="A configuration as hpo export writes it, or a mapping of hyperparameters; and values over its own.",
        ),
    ] = None,
    study: options.Study = None,
    store: options.Store = None,
) -> None:
    """Let a study try a configuration of yours next, before what its sampler proposes."""
    from hpo.search.steering import enqueue as put_before

    given, source = _given(arguments or [])
    with options.opened(store) as database:
        trial, varied = put_before(database, study, given, source)
    for name, value in varied.items():
        typer.echo(f"  {name}: {'null' if value is None else value}")
    typer.echo(f"Trial {trial} waits to be trained with these; hpo run takes it up, also where it is running now.")


def stop(
    trial: Annotated[int | None, typer.Option(min=0, help="Give up this trial alone; the search goes on.")] = None,
    study: options.Study = None,
    store: options.Store = None,
) -> None:
    """Ask whoever leads a study to end its search at the next step, or to give up one trial."""
    from hpo.search.steering import ask_to_stop

    with options.opened(store) as database:
        name, leader = ask_to_stop(database, study, trial)
    if trial is None:
        typer.echo(f"The search of {name!r}, led by {leader}, ends at its next step; what is training goes on later.")
    else:
        typer.echo(f"Trial {trial} of {name!r}, led by {leader}, is given up at its next step.")


def _given(arguments: Sequence[str]) -> tuple[Mapping[str, Any], str]:
    """Return the hyperparameters that a file and the values after it give, and what to call them."""
    if not arguments:
        raise ConfigurationError("hpo enqueue needs a configuration: a file, as hpo export writes it, or NAME=VALUE.")
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigurationError(f"hpo enqueue takes one configuration, but got {', '.join(files)}.")
    given = _hyperparameters(Path(files[0])) if files else {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if separator:
            given[name.strip()] = parse_yaml(value, f"the value of {name}")
    return given, files[0] if files else "hpo enqueue"


def _hyperparameters(path: Path) -> dict[str, Any]:
    content = read_yaml_mapping(path)
    inner = content.get("hyperparameters", content)
    if not isinstance(inner, dict):
        raise ConfigurationError(f"{path}: 'hyperparameters' is {inner!r}, but must be `name: value` lines.")
    return dict(inner)
