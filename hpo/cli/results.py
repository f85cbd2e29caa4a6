"""Results: `hpo best` and `hpo studies` show the content of a store."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hpo.cli import options
from hpo.errors import ConfigurationError, NoResultError

studies = typer.Typer()


def best(study: options.Study = None, store: options.Store = None, as_json: options.Json = False) -> None:
    """Show the verdict on a study, the recommended configuration and the leaderboard."""
    from hpo.cli.tables import print_leaderboard, print_recommended, print_verdict
    from hpo.export.configs import stored_verdict, study_to_plain, to_json
    from hpo.store.results import read_search

    with options.opened(store) as database:
        results = read_search(database, study)
    verdict = stored_verdict(results)
    if as_json:
        typer.echo(to_json(study_to_plain(results, verdict)), nl=False)
        raise typer.Exit(0 if results.leaderboard else NoResultError.exit_code)
    if results.confirmation:
        print_verdict(verdict)
    print_recommended(results, verdict)
    print_leaderboard(results, verdict)
    if not results.leaderboard:
        raise typer.Exit(NoResultError.exit_code)


@studies.callback(invoke_without_command=True)
def list_studies(context: typer.Context, store: options.Store = None, as_json: options.Json = False) -> None:
    """List the studies of a store, or delete one of them."""
    if context.invoked_subcommand is not None:
        return
    from hpo.cli.tables import print_studies
    from hpo.store.studies import read_studies

    with options.opened(store) as database:
        found = read_studies(database)
    if as_json:
        typer.echo(json.dumps([asdict(study) for study in found], indent=2))
    else:
        print_studies(found)


@studies.command("delete")
def delete(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    store: options.Store = None,
) -> None:
    """Delete a study with its trials, weights and checkpoints, both local and at their URL."""
    from hpo.files.remote import RemoteFiles, remote_url_of
    from hpo.search.steering import refuse_led
    from hpo.store.results import read_results
    from hpo.store.studies import delete_study

    url = store or (context.parent.params["store"] if context.parent else None) or options.DEFAULT_STORE
    with options.opened(url) as database:
        results = read_results(database, name)
        folder = _files_folder(results.confirms or name, url)
        sent_to = remote_url_of(folder)
        if results.confirms is not None:
            from hpo.training.context import CONFIRMATION

            # The search's files at the URL stay; the next confirmation deletes there what it does not need.
            folder, sent_to = folder / CONFIRMATION, None
        # Opened before rows are deleted: if this machine cannot reach the URL, another can still delete the study.
        remote = None if sent_to is None else RemoteFiles(sent_to, name, folder)
        files = f"{folder}" if remote is None else f"{folder} and {remote.place}"
        if not yes and not _confirmed(f"Delete the study {name!r}, its {len(results.trials)} trials and {files}?"):
            typer.echo("Nothing was deleted.")
            raise typer.Exit(1)
        delete_study(database, name, refuse=refuse_led)
    typer.echo(f"Deleted the study {name!r} with {len(results.trials)} trials.")
    try:
        if remote is not None:
            remote.delete()
            typer.echo(f"Deleted {remote.place}.")
    finally:
        _delete_folder(folder)


def _files_folder(study: str, url: str) -> Path:
    """Return the default folder of a study's weights; the store does not know whether its file named another."""
    from hpo.config.study_file import StudyConfig
    from hpo.runners.run import files_folder

    # Other keys have no effect, and this hpo may not be able to read those in the store, from another version.
    rest = {"model": {"name": "any"}, "data": {"train": "any"}}
    return files_folder(StudyConfig.model_validate({"study": study, "store": url, **rest}))


def _delete_folder(folder: Path) -> None:
    if not folder.is_dir():
        typer.echo(f"There is no folder {folder}. If the study file names another (store.files), it was not deleted.")
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ConfigurationError(f"hpo could not delete the folder {folder}: {error.strerror}; delete it.") from None
    typer.echo(f"Deleted {folder}.")


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:
        raise ConfigurationError("hpo studies delete got no answer, so nothing was deleted; add --yes.") from None
