"""`hpo simulate` and `hpo curves export`: nights in seconds, over learning curves that were recorded or made up."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli import options
from hpo.errors import ConfigurationError

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig
    from hpo.runners.replay.comparison import Compared, Setting
    from hpo.runners.replay.curves import Curve, CurveSource, Recording
    from hpo.runners.replay.simulated_search import SimulatedSearch

GENERATED = "generated"

curves_app = typer.Typer(help="Learning curves of a study, to simulate searches over.", no_args_is_help=True)


@curves_app.callback()
def _curves() -> None:
    """Let `export` be a verb of its own: of a single one typer would make the whole command."""


@curves_app.command()
def export(
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Where the curves are written, as JSON Lines.")
    ],
    study: options.Study = None,
    store: options.Store = None,
) -> None:
    """Write the learning curves of a study to a file: hyperparameters, scores and seconds, no text."""
    from hpo.export.writing import write_text
    from hpo.runners.replay.curves import MARK, export_curves, to_lines

    with options.opened(store) as database:
        recording = export_curves(database, study)
    write_text(output, to_lines(recording), MARK)
    typer.echo(f"Wrote {len(recording.curves)} curves of study {recording.study} to {output}.", err=True)


def simulate(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="STUDY.yaml [PATH=VALUE]...", help="A study file, and values that replace its own."),
    ],
    curves: Annotated[
        str, typer.Option("--curves", metavar="FILE", help="What hpo curves export wrote, or `generated`.")
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="PATH=VALUE,VALUE...",
            help="What is compared, e.g. compute.workers=1,4,8; of several every combination; else four pruners.",
        ),
    ] = None,
    nights: Annotated[int, typer.Option("--nights", min=1, help="Nights under each setting, with other seeds.")] = 20,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Nights side by side; one a core if not given.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare pruners, samplers, worker counts or deadlines by nights of seconds; nothing is trained."""
    from hpo.runners.replay.comparison import compare, verdict

    configs = _configs(arguments, vary)
    source_of, metric = _source(curves, next(iter(configs.values())))
    compared = compare(
        configs,
        source_of,
        nights=nights,
        metric=metric,
        jobs=min(jobs or os.cpu_count() or 1, nights * len(configs)),
        # A date in `budget.until` is meant from now.
        starts_at=time.time(),
        told=_told,
    )
    if as_json:
        typer.echo(
            json.dumps({"verdict": verdict(compared), "settings": [_to_json(one) for one in compared]}, indent=2)
        )
        return
    _print_table(compared, metric)
    typer.echo(verdict(compared))


def _configs(arguments: Sequence[str], vary: Sequence[str] | None) -> "Mapping[Setting, StudyConfig]":
    """Return the study under each setting."""
    from hpo.config.loading import load_config
    from hpo.runners.replay.comparison import SHIPPED, SHIPPED_FOR_FOLDS, settings_of

    files = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if len(files) != 1:
        raise ConfigurationError(f"hpo simulate takes one study file, and then PATH=VALUE, but got {len(files)} files.")
    if not vary:
        folds = load_config(Path(files[0]), None, overrides).evaluation.folds
        vary = [SHIPPED_FOR_FOLDS if folds else SHIPPED]
    return {setting: load_config(Path(files[0]), None, [*overrides, *setting]) for setting in settings_of(vary)}


def _source(curves: str, config: "StudyConfig") -> "tuple[Callable[[int], CurveSource], str]":
    """Return what makes the curves of a night from its seed, and what their scores are called."""
    from hpo.runners.replay.curves import read_curves
    from hpo.runners.replay.generated_curves import Generated

    if curves == GENERATED:
        return Generated, "score"
    recording = read_curves(Path(curves))
    _note_unknown(recording, config)
    return partial(_recorded, recording.curves), recording.metric


def _recorded(curves: "Sequence[Curve]", _seed: int) -> "CurveSource":
    from hpo.runners.replay.recorded_curves import Recorded

    return Recorded(curves)


def _note_unknown(recording: "Recording", config: "StudyConfig") -> None:
    """Say which parameters of the space the curves know nothing of."""
    from hpo.space.space_file import space_of

    varied = [parameter.name for parameter in space_of(config.space).parameters if parameter.is_sampled]
    unknown = [name for name in varied if name not in recording.parameters]
    if unknown:
        typer.echo(
            f"The curves know nothing of {', '.join(unknown)}: proposals that differ in that alone are equal.", err=True
        )


def _told(done: int, every: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {every} nights{'' if done < every else chr(10)}", nl=False, err=True)


COLUMNS: "Mapping[str, Callable[[SimulatedSearch], float | None]]" = {
    "true score": lambda night: night.true_score,
    "score": lambda night: night.best_score,
    "found at, h": lambda night: None if night.found_at is None else night.found_at / 3600,
    "begun": lambda night: night.begun,
    "completed": lambda night: night.completed,
    "pruned": lambda night: night.pruned,
    "busy, %": lambda night: 100 * night.busy_share,
    "took, h": lambda night: night.seconds / 3600,
    "of, h": lambda night: None if night.given_seconds is None else night.given_seconds / 3600,
}
DIGITS = {"true score": 4, "score": 4, "found at, h": 2, "took, h": 2, "of, h": 2}


def _print_table(compared: "Sequence[Compared]", metric: str) -> None:
    from hpo.cli.tables import console, table_of
    from hpo.runners.replay.comparison import spoken_estimate, spoken_setting

    nights = len(compared[0].nights)
    title = f"{metric}, mean of {nights} {'night' if nights == 1 else 'nights'} ± standard error"
    table = table_of(("setting", *COLUMNS), left=("setting",), title=title)
    for one in compared:
        found = {column: one.over_nights(what) for column, what in COLUMNS.items()}
        cells = (
            spoken_estimate(estimated, DIGITS.get(column, 1)) if estimated else "-"
            for column, estimated in found.items()
        )
        table.add_row(spoken_setting(one.setting), *cells)
    console().print(table)


def _to_json(compared: "Compared") -> dict[str, Any]:
    return {"setting": list(compared.setting), "nights": [asdict(night) for night in compared.nights]}
