"""Search spaces: `hpo space list`, `hpo space check` and `hpo space plot`."""

from typing import Annotated

import typer

app = typer.Typer(help="Search spaces: list the shipped ones, check or plot one of your own.", no_args_is_help=True)
Space = Annotated[str, typer.Argument(metavar="FILE", help="A space file, or the name of a shipped space.")]


@app.command("list")
def list_() -> None:
    """List the shipped spaces."""
    from hpo.cli.tables import print_spaces

    print_spaces()


@app.command()
def check(space: Space) -> None:
    """Read a space and show what it says, parameter by parameter."""
    from hpo.cli.tables import print_space
    from hpo.space.space_file import load_space

    print_space(load_space(space))


@app.command()
def plot(space: Space) -> None:
    """Draw the learning rate over a trial, for each schedule that a space can take."""
    from hpo.cli.schedule_charts import charts
    from hpo.space.space_file import load_space

    for chart in charts(load_space(space)):
        typer.echo(chart)
