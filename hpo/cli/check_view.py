"""How a check is shown: the ends of the space side by side, what follows for the search, what looks wrong."""

from collections.abc import Callable, Iterator, Mapping

from rich.table import Table

from hpo.cli.tables import console
from hpo.config.times import humanized
from hpo.runners.check.check import Check
from hpo.runners.check.forecast import Probed
from hpo.runners.check.warnings import size

SHOWN = ("method", "optimizer", "batch_size", "max_length", "kept_layers", "epochs", "data_fraction")


def show(checked: Check) -> None:
    """Print the ends of the space side by side, what follows for the search, and what looks wrong."""
    out, forecast = console(), checked.forecast
    counted = "1 worker" if forecast.workers == 1 else f"{forecast.workers} workers"
    out.print(f"\nStudy {checked.study} on {checked.device}, {counted}, {checked.precision}")
    out.print(_table(forecast.extremes))
    for line in _conclusions(checked):
        out.print(line, soft_wrap=True)
    for heading, sentences in (("What looks wrong:", checked.warnings), ("What cannot run:", checked.refusals)):
        if sentences:
            out.print(heading)
        for sentence in sentences:
            out.print(f"  - {sentence}", soft_wrap=True)
    if not checked.warnings and not checked.refusals:
        out.print("Nothing looks wrong.")


def _table(extremes: Mapping[str, Probed]) -> Table:
    """Return a column for each end, one for those that are the same configuration."""
    distinct = list({id(end): end for end in extremes.values()}.values())
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for end in distinct:
        table.add_column(" and ".join(name for name, other in extremes.items() if other is end), justify="right")
    for field in SHOWN:
        table.add_row(field.replace("_", " "), *(_shown(getattr(end.hyperparameters, field)) for end in distinct))
    table.add_row("texts at once", *map(_at_once, distinct))
    for name, cell in CELLS.items():
        table.add_row(name, *(cell(end) if end.fits else "-" for end in distinct))
    return table


def _shown(value: object) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _at_once(end: Probed) -> str:
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
"""What a probe said of an end that fits into memory, by the name of its row."""


def _conclusions(checked: Check) -> Iterator[str]:
    """Say how long the search takes, how many trials fit, and what lies on the disk."""
    forecast = checked.forecast
    if forecast.search_seconds is not None:
        counted = "1 trial takes" if forecast.trials == 1 else f"{forecast.trials} trials take"
        yield f"{counted} {_between(*map(humanized, forecast.search_seconds))}, if none is given up early."
    if forecast.fitting is not None:
        shortest, longest = forecast.fitting
        time = "the time" if forecast.seconds_left is None else humanized(forecast.seconds_left)
        yield f"{_between(str(longest), str(shortest))} trials fit into {time}, if none is given up early."
    yield f"Checkpoints and weights take up to {size(forecast.disk_bytes)} of {size(checked.disk_free)} that are free."


def _between(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"
