"""Retraining verbs: `hpo reproduce` and `hpo train` train an exported configuration again."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hpo.cli import options
from hpo.cli.search import INTERRUPTED

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG.yaml [PATH=VALUE]...",
        help="A file that hpo export wrote, and the paths of model and texts on this machine, such as data.train=FILE.",
    ),
]


def reproduce(
    words: Words, threads: options.Threads = None, device: options.Device = None, as_json: options.Json = False
) -> None:
    """Train an exported configuration again and compare the score; exit code 1 if it is not reproduced."""
    from hpo.export import retraining
    from hpo.export.exported_file import read_exported
    from hpo.runners.run import installed_versions

    exported = read_exported(*options.file_and_overrides(words, "hpo reproduce", "file that hpo export wrote"))
    with interruptible("nothing was written."):
        compute = retraining.compute_of(exported, device=device, threads=threads)
        config, splits = retraining.study_and_splits(exported, compute)
        worker = retraining.open_trainer(exported, config, splits)
        report = retraining.retrain(worker, exported.assignment(), _say)
    differs = retraining.differences_from_search(exported, installed_versions() | worker.facts())
    found = retraining.reproduction_of(exported, report.validation.objective, differs)
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"to_the_last_bit": found.to_the_last_bit}, indent=2))
    else:
        typer.echo(found.sentence)
    if not found.reproduced:
        raise typer.Exit(1)


def train(
    words: Words,
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="New folder for the model.")],
    on: Annotated[str, options.choice("--on", ("train", "train+validation"), "Rows to train on.")] = "train",
    merge: Annotated[
        bool, typer.Option("--merge", help="For method lora: write the whole model with the adapter merged.")
    ] = False,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Train the final model from an exported configuration, into a folder that transformers or PEFT loads."""
    from hpo.export.exported_file import read_exported
    from hpo.export.model_folder import On, train_into
    from hpo.export.retraining import compute_of

    exported = read_exported(*options.file_and_overrides(words, "hpo train", "file that hpo export wrote"))
    compute = compute_of(exported, device=device, threads=threads)
    with interruptible(f"nothing was written to {output}."):
        rows: On = "train" if on == "train" else "train+validation"
        train_into(output, exported, compute, rows, _say, merge=merge)
    what = "adapter" if exported.hyperparameters.method == "lora" and not merge else "model"
    typer.echo(f"Wrote {output}: {what}, tokenizer and README.md.")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


@contextmanager
def interruptible(outcome: str) -> Iterator[None]:
    """On Ctrl-C, SIGTERM or a closed terminal, let the block clean up, then print a sentence and exit as interrupted.

    Ignored signals stay ignored: SIGHUP under nohup.
    """
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"hpo: interrupted; {outcome}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
