"""`hpo space list` and `hpo space check`: what a search varies."""

from typing import Annotated

import typer

app = typer.Typer(help="Search spaces: list the shipped ones, check one of your own.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """List the shipped spaces."""
    from hpo.cli.tables import space_list

    space_list()


@app.command()
def check(
    space: Annotated[str, typer.Argument(metavar="FILE", help="A space file, or the name of a shipped space.")],
) -> None:
    """Read a space and show what it says, parameter by parameter."""
    from hpo.cli.tables import space_table
    from hpo.space.space_file import load_space

    space_table(load_space(space))
