"""Search spaces: `hpo space list`, `hpo space check` and `hpo space plot`."""

from typing import Annotated

import typer

from hpo.cli.command_help import Commands

app = Commands(help="List shipped search spaces, check a space, or plot its schedules.", no_args_is_help=True)
Space = Annotated[str, typer.Argument(metavar="FILE", help="A space file, or the name of a shipped space.")]


@app.command("list")
def list_() -> None:
    """List the shipped spaces."""
    from hpo.cli.tables import print_spaces

    print_spaces()


@app.command()
def check(space: Space) -> None:
    """Check a space and print its parameters."""
    from hpo.cli.tables import print_space
    from hpo.space.space_file import load_space

    print_space(load_space(space))


@app.command()
def plot(space: Space) -> None:
    """Plot the learning rate over a trial for each schedule in a space."""
    from hpo.cli.schedule_charts import charts
    from hpo.space.space_file import load_space

    for chart in charts(load_space(space)):
        typer.echo(chart)
