"""The flags that several verbs share, so that they have one name and one meaning everywhere; the store they name."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hpo.store.database import Database

StudyWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STUDY.yaml] [PATH=VALUE]...", help="A study or W&B sweep file, and values that replace its own."
    ),
]
Model = Annotated[str | None, typer.Option(help="Folder or hub id of a pretrained model.")]
Train = Annotated[
    str | None,
    typer.Option(
        help="Texts to train on: a CSV, TSV, JSONL or Parquet file, a pattern of several, a folder that `datasets` "
        "saved, or hf://OWNER/NAME on the hub."
    ),
]
Validation = Annotated[str | None, typer.Option(help="Texts to score on; made from --train if not given.")]
Test = Annotated[str | None, typer.Option(help="Texts read once, after the search.")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the text; detected if not given.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the label; detected if not given.")]
Space = Annotated[str | None, typer.Option(help="A shipped space (see hpo space list) or a space file.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse texts that are not UTF-8.")]
Study = Annotated[str | None, typer.Option("--study", metavar="NAME", help="Name of the study in the store.")]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."),
]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Trials in all, those of earlier runs among them.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of splits, proposals and trials.")]
For = Annotated[
    str | None,
    typer.Option(
        "--for", metavar="DURATION", help="How long the search may take, such as 8h or 1h30m; 0 is its exit code."
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="When it is over: the next 07:30, or '2026-11-23 07:30'.")
]
GpuHours = Annotated[
    float | None, typer.Option("--gpu-hours", help="Hours of training, summed over all devices and earlier runs.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Trials side by side, each in its own process.")]
KeepWeights = Annotated[
    int | None,
    typer.Option("--keep-weights", metavar="K", min=0, help="Of how many of the best trials weights are kept."),
]
Notify = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        metavar="URL",
        help="Who is told of its end, a new best, a failure: ntfy://TOPIC or another URL of apprise, or "
        "'command:PROGRAM ARGS'. May be given several times.",
    ),
]
Runner = Annotated[
    str | None, typer.Option("--runner", help="Who carries trials to devices: auto, inline, processes or ray_tune.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="The cluster of ray_tune: auto for the one this machine is part of, or HOST:PORT of its head; left out, "
        "Ray is started on this machine.",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", metavar="PATH", help="Where the configuration is written.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]

DEFAULT_STORE = "sqlite:///hpo.db"


@contextmanager
def opened(store: str | None) -> "Iterator[Database]":
    """Open the store that `--store` names, which must be there."""
    from hpo.store.database import open_database

    with closing(open_database(store or DEFAULT_STORE, must_exist=True)) as database:
        yield database
