"""The flags that several verbs share, so that they have one name and one meaning everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[str | None, typer.Option("--study", metavar="NAME", help="Name of the study in the store.")]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."),
]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Trials in all, those of earlier runs among them.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of splits, proposals and trials.")]
Runner = Annotated[str | None, typer.Option("--runner", help="Who carries trials to devices: inline.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="PATH", help="Where the configuration is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]

DEFAULT_STORE = "sqlite:///hpo.db"
