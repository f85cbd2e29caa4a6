"""Steering verbs: `hpo enqueue` and `hpo stop` change a search from another terminal."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hpo.cli import options
from hpo.config.naming import with_translations_joined
from hpo.config.parsing import parse_yaml, read_yaml_mapping
from hpo.errors import ConfigurationError


def enqueue(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] [HYPERPARAMETER=VALUE]...",
            help="A file that hpo export wrote or a mapping of hyperparameters, and values that override those in it.",
        ),
    ] = None,
    study: options.Study = None,
    store: options.Store = None,
) -> None:
    """Add a configuration of your own, which the study tries before the sampler's next proposal."""
    from hpo.search.steering import enqueue as put_before
    from hpo.space.fitting import in_our_names

    if not words:
        raise ConfigurationError("hpo enqueue needs a configuration: a file, as hpo export writes it, or NAME=VALUE.")
    file, overrides = options.split_words(words, "hpo enqueue", "configuration")
    written = (override.partition("=") for override in overrides)
    own = {name.strip(): parse_yaml(text, f"the value of {name}") for name, _, text in written}
    source, given = str(file or "hpo enqueue"), dict[str, Any]()
    for values in (_hyperparameters(file) if file else {}, own):
        ours, notes = in_our_names(values, source)
        given |= ours
        for note in with_translations_joined(notes):
            typer.echo(note)
    with options.opened(store) as database:
        trial, varied = put_before(database, study, given, source)
    for name, value in varied.items():
        typer.echo(f"  {name}: {'null' if value is None else value}")
    typer.echo(f"Trial {trial} is enqueued; the running search, or else the next hpo run, trains it first.")


def stop(
    trial: Annotated[int | None, typer.Option(min=0, help="Prune only this trial; the search continues.")] = None,
    study: options.Study = None,
    store: options.Store = None,
) -> None:
    """End the search of a study at its next step, or prune one trial."""
    from hpo.search.steering import ask_to_stop

    with options.opened(store) as database:
        name, leader = ask_to_stop(database, study, trial)
    if trial is None:
        typer.echo(f"The search of {name!r}, led by {leader}, ends at its next step; what is training resumes later.")
    else:
        typer.echo(f"Trial {trial} of {name!r}, led by {leader}, is pruned at its next step.")


def _hyperparameters(path: Path) -> dict[str, Any]:
    content = read_yaml_mapping(path)
    inner = content.get("hyperparameters", content)
    if not isinstance(inner, dict):
        raise ConfigurationError(f"{path}: 'hyperparameters' is {inner!r}, but must be `name: value` lines.")
    return dict(inner)
