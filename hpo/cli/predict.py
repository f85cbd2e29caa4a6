"""`hpo predict`: a model of `hpo train` over the rows of a file."""

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.train import DEVICES, interruptible, refuse_unknown

PRECISIONS = ("fp32", "bf16")


def predict(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A model that hpo train wrote.")],
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Texts: a CSV, TSV, JSONL or Parquet file, or what else --train takes."),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE]...", help="How this file is read, as data.text_column=NAME."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", metavar="CSV", help="Where the rows are written.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores if not given.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; the GPU where there is one if not given.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16; that of the search if not given.")] = None,
) -> None:
    """Write the rows of a file as CSV, with the model's prediction and its probability; without --output, to standard
    output."""
    refuse_unknown("--device", device, DEVICES)
    refuse_unknown("--precision", precision, PRECISIONS)
    from hpo.config.study_file import ComputeConfig
    from hpo.export.prediction import predicted, prepared
    from hpo.export.writing import check_writable, write_text

    compute = ComputeConfig.model_validate(
        {"device": device or "auto", "threads": threads, "precision": precision or "auto"}
    )
    with interruptible("nothing was written."):
        asked = prepared(folder, file, arguments or ())
        for note in asked.rows.notes:
            typer.echo(note, err=True)
        if output is not None:
            check_writable(output, asked.header)
        text = predicted(asked, compute)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text, asked.header)
        typer.echo(f"Wrote {output}: {asked.rows.table.rows:,} rows.", err=True)
