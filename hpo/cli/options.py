"""Command-line options with the same name and meaning in all verbs; arguments of verbs; opening of the store."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import wraps
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.errors import ConfigurationError, nearest, without_credentials

if TYPE_CHECKING:
    from hpo.store.database import Database

DEFAULT_STORE = "sqlite:///hpo.db"
Text = str | None


def choice(flag: str, choices: Sequence[str], help_: str) -> Any:
    """Return an option that takes one of `choices`, which its help lists and a shell completes."""

    def checked(value: Text) -> Text:
        if value is not None and value not in choices:
            raise ConfigurationError(f"{flag} cannot be {value!r}. {nearest(value, choices)}")
        return value

    def completed(incomplete: str) -> list[str]:
        return [one for one in choices if one.startswith(incomplete)]

    return typer.Option(flag, metavar="|".join(choices), help=help_, callback=checked, autocompletion=completed)


Study = Annotated[Text, typer.Option("--study", metavar="NAME", help="Name of the study in the store.")]
Store = Annotated[
    Text,
    typer.Option("--store", metavar="URL", help="sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE."),
]
Runner = Annotated[
    Text,
    choice(
        "--runner",
        ("auto", "inline", "processes", "ray_tune"),
        "Run trials in this process, in worker processes or on a Ray cluster.",
    ),
]
RayAddress = Annotated[
    Text,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="Cluster of ray_tune: auto for the one that this machine is part of, or HOST:PORT of its head. By "
        "default, hpo starts Ray on this machine.",
    ),
]
Device = Annotated[
    Text,
    choice(
        "--device",
        ("auto", "cpu", "cuda"),
        "Device; default: that of the search, or the GPU if there is one.",
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: those of the search, or all cores.")]
Output = Annotated[Path | None, typer.Option("--output", metavar="PATH", help="File to write the configuration to.")]
Json = Annotated[bool, typer.Option("--json", help="Print only the result, as JSON, on standard output.")]
StudyWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[STUDY.yaml] [PATH=VALUE]...", help="A study or W&B sweep file, and values that override it."
    ),
]


def _option(key: str, kind: Any, *flags: str, **settings: Any) -> tuple[str, Any]:
    return key, Annotated[kind, typer.Option(*flags, **settings)]


STUDY_OPTIONS: Mapping[str, tuple[str, Any]] = {
    "model": _option("model.name", Text, help="Folder or hub id of a pretrained model."),
    "train": _option(
        "data.train", Text,
        help="Examples to train on: a CSV, TSV, JSONL or Parquet file, a pattern of several, a folder that `datasets` "
        "saved, or hf://OWNER/NAME on the hub.",
    ),
    "validation": _option("data.validation", Text, help="Examples to score trials on; default: split off --train."),
    "test": _option("data.test", Text, help="Examples scored once, after the search."),
    "text_column": _option("data.text_column", Text, help="Column of the text; detected if not given."),
    "label_column": _option("data.label_column", Text, help="Column of the label; detected if not given."),
    "strict": _option("data.strict", bool | None, "--strict", help="Refuse texts that are not UTF-8."),
    "space": _option("space", Text, help="A shipped space (see hpo space list), a space file, or auto (by the model)."),
    "study": ("study", Study),
    "store": ("store.url", Store),
    "trials": _option("budget.trials", int | None, min=1, help="Trials in total, including those of earlier runs."),
    "for_": _option(
        "budget.time", Text, "--for", metavar="DURATION", help="Longest duration of the search, such as 8h or 1h30m.",
    ),
    "until": _option(
        "budget.until", Text, metavar="TIME", help="When the search ends: the next 07:30, or '2026-11-23 07:30'.",
    ),
    "gpu_hours": _option(
        "budget.gpu_hours", float | None, help="GPU hours of training, summed over all devices and earlier runs.",
    ),
    "seed": _option("seed", int | None, min=0, help="Seed of splits, proposals and trials."),
    "runner": ("compute.runner", Runner),
    "ray_address": ("compute.ray_address", RayAddress),
    "workers": _option(
        "compute.workers", Text, metavar="N|auto", help="Trials in parallel, each in its own process; auto: as many on "
        "each GPU as a measurement finds best.",
    ),
    "keep_weights": _option(
        "store.keep_weights", int | None, metavar="K", min=0, help="Number of best trials whose weights are kept.",
    ),
    "warm_start": _option(
        "warm_start", list[str] | None, metavar="NAME|URL#NAME",
        help="Start from the trials of an earlier study in this or another store. May be given several times.",
    ),
    "notify": _option(
        "notify", list[str] | None, metavar="URL",
        help="Recipient of notifications (end, new best score, failure): ntfy://TOPIC or another URL of apprise, or "
        "'command:PROGRAM ARGS'. May be given several times.",
    ),
}  # fmt: skip
"""Parameter of a verb -> the key in the study file that it sets, and its type with the option."""
OF_DATA = ("model", "train", "validation", "test", "text_column", "label_column", "strict", "space")
"""Options that `hpo demo` sets itself, and therefore does not have."""


def with_study_options(without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `STUDY_OPTIONS` except those in `without` to a verb, which gets their values as `given`, by dotted keys."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        options = {name: option for name, option in STUDY_OPTIONS.items() if name not in without}

        @wraps(verb)
        def command(**values: Any) -> None:
            given = {key: values.pop(name) for name, (key, _) in options.items()}
            # An option that may be repeated is empty if it was not given.
            verb(**values, given={key: value for key, value in given.items() if value not in (None, [], ())})

        own = inspect.signature(verb).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                *(
                    inspect.Parameter(name, keyword, default=None, annotation=annotation)
                    for name, (_, annotation) in options.items()
                ),
                *(one.replace(kind=keyword) for one in own if one.name != "given"),
            ]
        )
        return command

    return decorate


def split_words(words: Sequence[str] | None, verb: str, kind: str = "study file") -> tuple[Path | None, list[str]]:
    """Return the file among a verb's arguments, None if there is none, and the overrides PATH=VALUE.

    Raises:
        ConfigurationError: there are several files.
    """
    overrides = [word for word in words or () if _is_override(word)]
    files = [word for word in words or () if word not in overrides]
    if len(files) > 1:
        raise ConfigurationError(
            f"{verb} takes one {kind} and overrides PATH=VALUE, but got {without_credentials(', '.join(files))}; write "
            "values after `=`."
        )
    return (Path(files[0]) if files else None), overrides


def file_and_overrides(words: Sequence[str], verb: str, kind: str = "study file") -> tuple[Path, list[str]]:
    """Return the result of `split_words`, but refuse arguments without a file."""
    file, overrides = split_words(words, verb, kind)
    if file is None:
        raise ConfigurationError(f"{verb} takes one {kind} and overrides PATH=VALUE, but got no file.")
    return file, overrides


def _is_override(word: str) -> bool:
    """Return true if a word is PATH=VALUE, and not a file or source with `=` in its name."""
    path, separator, _ = word.partition("=")
    return bool(separator) and "://" not in path and not isfile(word)


@contextmanager
def opened(store: str | None) -> "Iterator[Database]":
    """Open the store that `--store` names, which must exist."""
    from hpo.store.database import open_database

    with closing(open_database(store or DEFAULT_STORE, must_exist=True)) as database:
        yield database
