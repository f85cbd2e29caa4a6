"""`hpo reproduce` and `hpo train`: an exported configuration, trained again."""

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
from hpo.errors import ConfigurationError, nearest

DEVICES = ("auto", "cpu", "cuda")
ON = ("train", "train+validation")

Arguments = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG.yaml [PATH=VALUE]...",
        help="A configuration as hpo export writes it, and where model and texts are here, as data.train=FILE.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; those of the search if not given.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda; what the search trained on if not given.")]


def reproduce(
    arguments: Arguments, threads: Threads = None, device: Device = None, as_json: options.Json = False
) -> None:
    """Train an exported configuration again, and say whether it gives its score; exit code 1 where it does not."""
    refuse_unknown("--device", device, DEVICES)
    from hpo.export.exported import read_exported
    from hpo.export.reproduction import compared, differing
    from hpo.export.retraining import compute_of, here, opened, trained
    from hpo.runners.run import installed_versions

    exported = read_exported(*_file_and_overrides(arguments))
    with interruptible("nothing was written."):
        place = here(exported, compute_of(exported, device=device, threads=threads))
        worker = opened(exported, place)
        report = trained(worker, exported.assignment(), _say)
    found = compared(exported, report.validation.objective, differing(exported, installed_versions() | worker.facts()))
    if as_json:
        typer.echo(json.dumps(asdict(found) | {"to_the_last_bit": found.to_the_last_bit}, indent=2))
    else:
        typer.echo(found.sentence)
    if not found.reproduced:
        raise typer.Exit(1)


def train(
    arguments: Arguments,
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="Where the model goes: a new folder.")],
    on: Annotated[str, typer.Option("--on", help="What is trained on: train, or train+validation.")] = "train",
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Train the final model by an exported configuration, into a folder that `from_pretrained` opens."""
    refuse_unknown("--on", on, ON)
    refuse_unknown("--device", device, DEVICES)
    from hpo.export.exported import read_exported
    from hpo.export.model_folder import train_into
    from hpo.export.retraining import compute_of

    exported = read_exported(*_file_and_overrides(arguments))
    compute = compute_of(exported, device=device, threads=threads)
    with interruptible(f"nothing was written to {output}."):
        train_into(output, exported, compute, "train" if on == "train" else "train+validation", _say)
    typer.echo(f"Wrote {output}: model, tokenizer and README.md.")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


def refuse_unknown(flag: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raise a `ConfigurationError` where a flag was given and is none of these."""
    if value is not None and value not in choices:
        raise ConfigurationError(f"{flag} cannot be {value!r}. {nearest(value, choices)}")


def _file_and_overrides(arguments: list[str]) -> tuple[Path, list[str]]:
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) != 1:
        raise ConfigurationError(
            f"Name one file that hpo export wrote, and then PATH=VALUE, but got {', '.join(files) or 'no file'}."
        )
    return Path(files[0]), [argument for argument in arguments if "=" in argument]


@contextmanager
def interruptible(what_is_left: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, its own tidying up done, with a sentence and the code for it."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"hpo: interrupted; {what_is_left}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
