"""Command line: the verbs of `hpo`, and its exit codes.

Exit codes: 0 done; 1 an error inside hpo; 2 bad input; 3 the store failed; 4 another process leads the study;
5 no trial has completed; 130 interrupted, and the same command resumes.
"""

import os
import sys
from collections.abc import Callable, Mapping

import typer

from hpo.cli import check, dashboard, doctor, export, report, results, search, simulate, spaces, status, steering, train
from hpo.cli.command_help import Commands
from hpo.cli.output import StandardStreams
from hpo.cli.predict import predict
from hpo.errors import HpoError
from hpo.openmp import spin_briefly

app = Commands(
    name="hpo",
    help="Hyperparameter search for fine-tuning language models.",
    epilog="Start with `hpo demo`. "
    "Exit codes: 0 done, 1 error inside hpo, 2 bad input, 3 store failed, 4 another process runs this study, "
    "5 no trial completed, "
    "130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
VERBS: Mapping[str, Mapping[str, Callable[..., None] | typer.Typer]] = {
    "Search": {
        "demo": search.demo, "check": check.check, "run": search.run, "confirm": search.confirm,
        "status": status.status, "enqueue": steering.enqueue, "stop": steering.stop,
    },
    "Results": {
        "best": results.best, "report": report.report, "dashboard": dashboard.dashboard, "export": export.export,
        "reproduce": train.reproduce, "train": train.train, "predict": predict,
    },
    "Store": {"studies": results.studies},
    "Spaces and simulation": {
        "space": spaces.app, "curves": simulate.curves_app, "simulate": simulate.simulate,
    },
    "Machine": {"doctor": doctor.doctor},
}  # fmt: skip
"""Heading in the help -> its verbs."""
for heading, verbs in VERBS.items():
    for name, verb in verbs.items():
        if isinstance(verb, typer.Typer):
            app.add_typer(verb, name=name, rich_help_panel=heading)
        else:
            app.command(name, rich_help_panel=heading)(verb)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"hpo {installed('llm-hpo')}")
        raise typer.Exit


def main() -> None:
    """Run the command; an `HpoError` is printed as one sentence and sets the exit code."""
    spin_briefly(os.environ)
    streams = StandardStreams()
    try:
        app(prog_name="hpo")
        code = 0
    except HpoError as error:
        typer.secho(f"hpo: {error}", err=True, fg=typer.colors.RED if sys.stderr.isatty() else None)
        code = error.exit_code
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    sys.exit(streams.exit_code(code, next(iter(sys.argv[1:]), "")))
