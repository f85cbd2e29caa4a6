"""Simulation verbs: `hpo simulate` runs searches in seconds over the learning curves of `hpo curves export`."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli import options
from hpo.cli.command_help import Commands

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig
    from hpo.runners.replay.curves import Curve, CurveSource, Recording
    from hpo.runners.replay.simulated_search import Setting, SettingResult, SimulatedSearch

GENERATED = "generated"
Words = Annotated[
    list[str],
    typer.Argument(metavar="STUDY.yaml [PATH=VALUE]...", help="A study file, and values that override those in it."),
]
Curves = Annotated[str, typer.Option("--curves", metavar="FILE", help="A file of hpo curves export, or `generated`.")]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary",
        metavar="PATH=VALUE,VALUE...",
        help="Settings to compare, e.g. compute.workers=1,4,8; several are combined. Default: the shipped pruners.",
    ),
]
Nights = Annotated[int, typer.Option("--nights", min=1, help="Simulated searches per setting, each with its own seed.")]
Jobs = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Simulated searches in parallel; default: one per core.")
]

curves_app = Commands(help="Export the learning curves of a study, for hpo simulate.", no_args_is_help=True)


@curves_app.callback()
def _curves() -> None:
    """Keep `export` a subcommand, because typer would otherwise make a single subcommand the command itself."""


@curves_app.command()
def export(
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="File to write the curves to, as JSON Lines.")
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
    words: Words,
    curves: Curves,
    vary: Vary = None,
    nights: Nights = 20,
    jobs: Jobs = None,
    as_json: options.Json = False,
) -> None:
    """Compare pruners, samplers, numbers of workers or deadlines in simulated searches, without training."""
    from hpo.runners.replay.simulated_search import compare, recommendation

    configs = _configs(words, vary)
    source_of, metric = _source(curves, next(iter(configs.values())))
    results = compare(
        configs,
        source_of,
        searches=nights,
        metric=metric,
        jobs=min(jobs or os.cpu_count() or 1, nights * len(configs)),
        # `budget.until` is a real date.
        starts_at=time.time(),
        on_done=_show_done,
    )
    if as_json:
        settings = [{"setting": list(one.setting), "nights": list(map(asdict, one.searches))} for one in results]
        typer.echo(json.dumps({"verdict": recommendation(results), "settings": settings}, indent=2))
    else:
        _print_table(results, metric)
        typer.echo(recommendation(results))


def _configs(words: Sequence[str], vary: Sequence[str] | None) -> "Mapping[Setting, StudyConfig]":
    """Return the study under each setting."""
    from hpo.config.loading import load_config
    from hpo.runners.replay.simulated_search import SHIPPED, SHIPPED_FOR_FOLDS, settings_of

    file, overrides = options.file_and_overrides(words, "hpo simulate")
    if not vary:
        folds = load_config(file, None, overrides).evaluation.folds
        vary = [SHIPPED_FOR_FOLDS if folds else SHIPPED]
    return {setting: load_config(file, None, [*overrides, *setting]) for setting in settings_of(vary)}


def _source(curves: str, config: "StudyConfig") -> "tuple[Callable[[int], CurveSource], str]":
    """Return a function from a seed to the curves of a simulated search, and the name of their metric."""
    from hpo.runners.replay.curves import read_curves
    from hpo.runners.replay.generated_curves import GeneratedCurves

    if curves == GENERATED:
        return GeneratedCurves, "score"
    recording = read_curves(Path(curves))
    _note_unknown(recording, config)
    return partial(_recorded, recording.curves), recording.metric


def _recorded(curves: "Sequence[Curve]", _seed: int) -> "CurveSource":
    from hpo.runners.replay.curves import RecordedCurves

    return RecordedCurves(curves)


def _note_unknown(recording: "Recording", config: "StudyConfig") -> None:
    """Note the parameters of the space that the curves do not depend on."""
    from hpo.search.preflight import space_of_study

    varied = [parameter.name for parameter in space_of_study(config).parameters if parameter.is_sampled]
    unknown = [name for name in varied if name not in recording.parameters]
    if unknown:
        typer.echo(
            f"The curves do not depend on {', '.join(unknown)}: proposals that differ only there get the same scores.",
            err=True,
        )


def _show_done(done: int, every: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {every} simulated searches{'' if done < every else chr(10)}", nl=False, err=True)


COLUMNS: "Mapping[str, Callable[[SimulatedSearch], float | None]]" = {
    "true score": lambda run: run.true_score,
    "score": lambda run: run.best_score,
    "found at, h": lambda run: None if run.found_at is None else run.found_at / 3600,
    "begun": lambda run: run.begun,
    "completed": lambda run: run.completed,
    "pruned": lambda run: run.pruned,
    "busy, %": lambda run: 100 * run.busy_share,
    "took, h": lambda run: run.seconds / 3600,
    "of, h": lambda run: None if run.given_seconds is None else run.given_seconds / 3600,
}
DIGITS = {"true score": 4, "score": 4, "found at, h": 2, "took, h": 2, "of, h": 2}


def _print_table(results: "Sequence[SettingResult]", metric: str) -> None:
    from hpo.cli.tables import console, table_of
    from hpo.runners.replay.simulated_search import estimate_text, setting_text

    searches = len(results[0].searches)
    title = f"{metric}, mean of {searches} simulated {'search' if searches == 1 else 'searches'} ± standard error"
    table = table_of(("setting", *COLUMNS), left=("setting",), title=title)
    for one in results:
        found = {column: one.mean_of(value) for column, value in COLUMNS.items()}
        cells = (
            estimate_text(estimated, DIGITS.get(column, 1)) if estimated else "-" for column, estimated in found.items()
        )
        table.add_row(setting_text(one.setting), *cells)
    console().print(table)
