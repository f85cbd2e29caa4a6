"""Prediction: `hpo predict` runs a model of `hpo train` over the rows of a file."""

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli import options
from hpo.cli.train import interruptible

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A model that hpo train wrote.")]
Texts = Annotated[str, typer.Argument(metavar="FILE", help="Texts: any source that --train of hpo run accepts.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH=VALUE]...", help="Settings for reading the file, such as data.text_column=NAME."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="CSV", help="File to write the rows to; default: standard output."),
]
Precision = Annotated[
    str | None, options.choice("--precision", ("fp32", "bf16"), "Number format; default: that of the search.")
]


def predict(
    folder: Folder,
    file: Texts,
    overrides: Overrides = None,
    output: Output = None,
    threads: options.Threads = None,
    device: options.Device = None,
    precision: Precision = None,
) -> None:
    """Write the rows of a file as CSV, with the model's prediction and its probability for each."""
    from hpo.config.study_file import ComputeConfig
    from hpo.export.prediction import prediction_input, predictions_csv
    from hpo.export.writing import check_writable, write_text

    compute = ComputeConfig.model_validate(
        {"device": device or "auto", "threads": threads, "precision": precision or "auto"}
    )
    with interruptible("nothing was written."):
        given = prediction_input(folder, file, overrides or ())
        for note in given.rows.notes:
            typer.echo(note, err=True)
        if output is not None:
            check_writable(output, given.begins)
        text = predictions_csv(given, compute)
    if output is None:
        typer.echo(text, nl=False)
    else:
        write_text(output, text, given.begins)
        typer.echo(f"Wrote {output}: {given.rows.table.rows:,} rows.", err=True)
