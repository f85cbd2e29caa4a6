"""Check: `hpo check` forecasts the time and memory of a search, and lists problems."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from hpo.cli import options
from hpo.cli.study_arguments import study_of_words
from hpo.errors import ConfigurationError, Mistakes

if TYPE_CHECKING:
    from hpo.config.study_file import StudyConfig
    from hpo.runners.check.check import Check
    from hpo.runners.check.search_forecast import Probed


@options.with_study_options()
def check(
    given: Mapping[str, Any],
    words: options.StudyWords = None,
    output: options.Output = None,
    as_json: options.Json = False,
) -> None:
    """Train a few steps at the extremes of the space, and forecast memory and time. Stores nothing."""
    from hpo.cli.check_view import print_check
    from hpo.cli.live import callback_for
    from hpo.config.naming import with_translations_joined
    from hpo.export.configs import MARK, default_output
    from hpo.export.writing import check_writable
    from hpo.runners.check.check import check as check_study

    config, notes = study_of_words(words, given, "hpo check", _gather_mistakes)
    with callback_for(sys.stderr if as_json else sys.stdout) as callback:
        for sentence in with_translations_joined(notes):
            callback.note(sentence)
        checked = check_study(config, callback)
    try:
        check_writable(output or default_output(config.study, ""), MARK, config.store.url)
    except ConfigurationError as error:
        # Only hpo run writes this file.
        checked = replace(checked, warnings=(*checked.warnings, f"hpo run would refuse: {error}"))
    if as_json:
        typer.echo(json.dumps(to_mapping(checked), indent=2))
    else:
        print_check(checked)
    if checked.refusals:
        raise ConfigurationError(" ".join(checked.refusals))


def _gather_mistakes(config: "StudyConfig", mistakes: Mistakes) -> None:
    """Add the mistakes of a study and of its recipients of notifications to those that are known."""
    from hpo.cli.notifications import recipients_of
    from hpo.runners.start_checks import gather_mistakes

    gather_mistakes(config, mistakes)
    with mistakes.gathered():
        recipients_of(config.notify)


def to_mapping(checked: "Check") -> dict[str, Any]:
    """Return a check for `--json`, in seconds and bytes; null means unknown or unlimited."""
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
            # JSON has no NaN or infinity.
            "first_loss": probe.first_loss if math.isfinite(probe.first_loss) else None,
            "trial_seconds": end.seconds,
        }
    return values
