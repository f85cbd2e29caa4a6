"""`hpo check`: what a search will take, and what looks wrong, before it is left alone."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli import options
from hpo.cli.study_arguments import studied
from hpo.errors import ConfigurationError

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig
    from hpo.runners.check.check import Check
    from hpo.runners.check.forecast import Probed

AsOfRun = Annotated[str | None, typer.Option(help="As of hpo run.")]


def check(
    context: typer.Context,
    arguments: options.StudyWords = None,
    model: AsOfRun = None,
    train: AsOfRun = None,
    validation: AsOfRun = None,
    test: AsOfRun = None,
    text_column: AsOfRun = None,
    label_column: AsOfRun = None,
    space: AsOfRun = None,
    study: options.Study = None,
    store: options.Store = None,
    trials: options.Trials = None,
    for_: options.For = None,
    until: options.Until = None,
    gpu_hours: options.GpuHours = None,
    seed: options.Seed = None,
    runner: options.Runner = None,
    ray_address: options.RayAddress = None,
    workers: options.Workers = None,
    keep_weights: options.KeepWeights = None,
    notify: options.Notify = None,
    strict: options.Strict = False,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """Take a few steps at the extremes of the space: what fits, how long it takes, what looks wrong. Stores nothing."""
    from hpo.cli.check_view import show
    from hpo.cli.notifications import recipients_of
    from hpo.export.configs import MARK, default_output
    from hpo.export.writing import check_writable

    config, notes = studied(context.params, "hpo check")
    recipients_of(config.notify)  # Refuses what cannot be told.
    checked = _watched(config, notes, as_json)
    try:
        check_writable(output or default_output(config.study, ""), MARK, config.store.url)
    except ConfigurationError as error:
        # This command writes no such file; hpo run does.
        checked = replace(checked, warnings=(*checked.warnings, f"hpo run would refuse: {error}"))
    if as_json:
        typer.echo(json.dumps(to_mapping(checked), indent=2))
    else:
        show(checked)
    if checked.refusals:
        raise ConfigurationError(" ".join(checked.refusals))


def to_mapping(checked: "Check") -> dict[str, Any]:
    """Return a check as `--json` prints it: seconds, bytes, and sentences; null for what is not known or limited."""
    forecast = checked.forecast
    return {
        "study": checked.study,
        "device": checked.device,
        "precision": checked.precision,
        "workers": forecast.workers,
        "ends": {name: _end_to_mapping(end) for name, end in forecast.extremes.items()},
        "trial_seconds": forecast.trial_seconds,
        "trials": forecast.trials,
        "search_seconds": forecast.search_seconds,
        "seconds_left": forecast.seconds_left,
        "fitting_trials": forecast.fitting,
        "disk_needed_bytes": forecast.disk_bytes,
        "disk_free_bytes": checked.disk_free,
        "doubts": list(checked.warnings),
        "refusals": list(checked.refusals),
    }


def _end_to_mapping(end: "Probed") -> dict[str, Any]:
    values: dict[str, Any] = {"hyperparameters": end.hyperparameters.to_mapping(), "fits": end.fits}
    if end.fits:
        probe = end.probe
        values |= {
            "rows_at_once": probe.micro_batch_size,
            "seconds_per_step": probe.seconds_per_step,
            "peak_memory_bytes": probe.peak_memory_bytes,
            # JSON has no word for what is no number.
            "first_loss": probe.first_loss if math.isfinite(probe.first_loss) else None,
            "trial_seconds": end.seconds,
        }
    return values


def _watched(config: "StudyConfig", notes: Sequence[str], as_json: bool) -> "Check":
    """Run the check, and show meanwhile what is found in the data; `notes` are said first."""
    from hpo.cli.live import watcher_for
    from hpo.runners.check.check import check as check_study

    with watcher_for(sys.stderr if as_json else sys.stdout) as watcher:
        for sentence in notes:
            watcher.note(sentence)
        return check_study(config, watcher)
