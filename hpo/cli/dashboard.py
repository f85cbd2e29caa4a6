"""Dashboard: `hpo dashboard` shows the studies of a store in a browser, while they run and afterwards."""

import warnings
from typing import Annotated

import typer

from hpo.cli import options

PORT_HELP = "Port on this machine, from 1024; 0 for any free port."
Port = Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help=PORT_HELP)]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="Allow writing notes and deleting studies; read-only by default.")
]


def dashboard(
    study: options.Study = None,
    store: options.Store = None,
    port: Port = 8080,
    allow_changes: AllowChanges = False,
) -> None:
    """Show the studies of a store in a browser on this machine, until Ctrl-C."""
    from hpo.dashboard.server import serving

    _silence_optuna()
    with (
        options.opened(store) as database,
        serving(database, study=study, port=port, allow_changes=allow_changes) as (server, url),
    ):
        may = "notes can be written and studies deleted" if allow_changes else "it is read-only"
        typer.echo(f"The dashboard runs until Ctrl-C; {may}. Only this address gives access:\n{url}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("The dashboard is closed.")


def _silence_optuna() -> None:
    """Silence Optuna's warnings on its figures, such as one on a parameter that had a single value so far."""
    import optuna

    warnings.filterwarnings("ignore", module="optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
