"""Check display: the extremes of the space side by side, the forecast of the search, warnings."""

from collections.abc import Callable, Iterator, Mapping

from rich.table import Table

from hpo.cli.tables import console, table_of
from hpo.config.times import humanized
from hpo.runners.check.check import Check
from hpo.runners.check.search_forecast import Probed
from hpo.runners.check.warnings import size

SHOWN = ("method", "optimizer", "batch_size", "max_length", "kept_layers", "epochs", "data_fraction")


def print_check(checked: Check) -> None:
    """Print the extremes of the space side by side, the forecast, and the warnings."""
    out, forecast = console(), checked.forecast
    counted = "1 worker" if forecast.workers == 1 else f"{forecast.workers} workers"
    out.print(f"\nStudy {checked.study} on {checked.device}, {counted}, {checked.precision}")
    out.print(_table(forecast.extremes))
    for line in _forecast(checked):
        out.print(line, soft_wrap=True)
    for heading, sentences in (("Warnings:", checked.warnings), ("Refusals:", checked.refusals)):
        if sentences:
            out.print(heading)
        for sentence in sentences:
            out.print(f"  - {sentence}", soft_wrap=True)
    if not checked.warnings and not checked.refusals:
        out.print("No warnings.")


def _table(extremes: Mapping[str, Probed]) -> Table:
    """Return a table with a column for each extreme; extremes with the same configuration share one."""
    distinct = list({id(end): end for end in extremes.values()}.values())
    names = [" and ".join(name for name, other in extremes.items() if other is end) for end in distinct]
    table = table_of(("", *names), left=("",))
    for field in SHOWN:
        table.add_row(field.replace("_", " "), *(_shown(getattr(end.hyperparameters, field)) for end in distinct))
    table.add_row("micro-batch size", *map(_micro_batch_size, distinct))
    for name, cell in CELLS.items():
        table.add_row(name, *(cell(end) if end.fits else "-" for end in distinct))
    return table


def _shown(value: object) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _micro_batch_size(end: Probed) -> str:
    if not end.fits:
        return "not even 1"
    rows, batch = end.probe.micro_batch_size, end.hyperparameters.batch_size
    return "all" if rows is None or rows >= batch else f"{rows} of {batch}"


CELLS: Mapping[str, Callable[[Probed], str]] = {
    "memory": lambda end: size(end.probe.peak_memory_bytes),
    "steps": lambda end: str(end.steps),
    "a step": lambda end: f"{1000 * end.probe.seconds_per_step:.0f} ms",
    "a trial": lambda end: humanized(end.seconds),
}
"""Row of an extreme that fits into memory -> its cell."""


def _forecast(checked: Check) -> Iterator[str]:
    """Return lines on the duration of the search, the number of trials that fit, and the disk space."""
    forecast = checked.forecast
    if forecast.search_seconds is not None:
        counted = "1 trial takes" if forecast.trials == 1 else f"{forecast.trials} trials take"
        yield f"{counted} {_between(*map(humanized, forecast.search_seconds))}, if none is pruned."
    if forecast.fitting is not None:
        shortest, longest = forecast.fitting
        time = "the time" if forecast.seconds_left is None else humanized(forecast.seconds_left)
        yield f"{_between(str(longest), str(shortest))} trials fit into {time}, if none is pruned."
    free = size(checked.disk_free)
    yield f"Checkpoints and weights take up to {size(forecast.disk_bytes)} of {free} free disk space."


def _between(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"
