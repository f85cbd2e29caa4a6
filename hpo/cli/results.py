"""`hpo best`, `hpo export`, `hpo studies`: what a store holds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli import options
from hpo.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from hpo.store.engine import Database


def best(study: options.Study = None, store: options.Store = None, as_json: options.Json = False) -> None:
    """Show the best configuration of a study and its leaderboard."""
    from hpo.cli.tables import leaderboard, winner
    from hpo.export.configs import best_configuration, to_json
    from hpo.store.results import read_results

    with _opened(store) as database:
        results = read_results(database, study)
    if as_json:
        typer.echo(to_json(best_configuration(results)), nl=False)
        return
    winner(results)
    leaderboard(results)


def export(
    study: options.Study = None,
    store: options.Store = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="yaml or json; by the ending of --output if not given.")
    ] = None,
    output: options.Output = None,
) -> None:
    """Write the best configuration to a file, or to standard output where no --output is given."""
    from hpo.export.configs import FORMATS, best_configuration, write_text
    from hpo.store.results import read_results

    format_ = format_ or ("json" if output and output.suffix == ".json" else "yaml")
    if format_ not in FORMATS:
        raise ConfigurationError(f"--format cannot be {format_!r}. {nearest(format_, FORMATS)}")
    with _opened(store) as database:
        text = FORMATS[format_](best_configuration(read_results(database, study)))
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text)
        typer.echo(f"Wrote {output}.")


def studies(store: options.Store = None, as_json: options.Json = False) -> None:
    """List the studies of a store."""
    from hpo.cli.tables import study_list
    from hpo.store.results import read_studies

    with _opened(store) as database:
        found = read_studies(database)
    if as_json:
        typer.echo(json.dumps([asdict(study) for study in found], indent=2))
    else:
        study_list(found)


@contextmanager
def _opened(store: str | None) -> "Iterator[Database]":
    from hpo.store.engine import open_database

    database = open_database(store or options.DEFAULT_STORE, must_exist=True)
    try:
        yield database
    finally:
        database.close()
