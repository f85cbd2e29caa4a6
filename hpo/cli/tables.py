"""Prints studies, leaderboards and spaces as tables."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.engine import make_url

from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces, space_description
from hpo.store.results import StudyResults, StudySummary, TrialResult

SHOWN_TRIALS = 10


def console() -> Console:
    """Return standard output as rich writes to it: a pipe gets wide plain lines."""
    return Console(width=None if os.isatty(1) else 200, highlight=False, soft_wrap=False)


def leaderboard(results: StudyResults) -> None:
    """Print the best completed trials, and a line on the others."""
    shown = results.leaderboard[:SHOWN_TRIALS]
    varied = _varied(shown)
    title = Text(f"{results.name}: {results.metric} on validation")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("trial", "score", "train", "epoch", "seconds", "from"):
        table.add_column(column, justify="left" if column == "from" else "right")
    for name in varied:
        table.add_column(name.replace("_", " "), overflow="fold")
    for trial in shown:
        table.add_row(
            str(trial.number), _number(trial.score, 4), _number(trial.train_score, 4), _number(trial.best_epoch, 2),
            _number(trial.seconds, 1), trial.proposed_by, *(_value(trial.configuration.get(name)) for name in varied),
        )  # fmt: skip
    out = console()
    out.print()
    out.print(table)
    out.print(_others(results))


def summary(results: StudyResults, store: str, output: Path | None, *, interrupted: bool) -> None:
    """Print what a search ended with: the winner, its test score, and where everything is."""
    out = console()
    if results.leaderboard:
        best = results.best
        out.print(f"\nBest: trial {best.number}, {results.metric} {best.score:.4f} on validation.")
        if best.number in results.test:
            test = results.test[best.number]
            out.print(f"Test split, read once after the search: {test.metric} {test.objective:.4f}, {test.rows} texts.")
    else:
        out.print("\nNo trial has completed, so there is no best configuration.")
    out.print(f"Store: {_place(store)}", soft_wrap=True)
    if output is not None:
        out.print(f"Best configuration: {output.absolute()}", soft_wrap=True)
    if interrupted:
        out.print("Interrupted; the same command goes on.")


def winner(results: StudyResults) -> None:
    """Print the best trial's scores and hyperparameters."""
    best, out = results.best, console()
    out.print(f"Trial {best.number} of study {Text(results.name)}: {results.metric} {best.score:.4f} on validation")
    if best.train_score is not None:
        out.print(f"  on training texts {best.train_score:.4f}, at epoch {best.best_epoch:.2f}")
    if best.number in results.test:
        out.print(f"  on the test split {results.test[best.number].objective:.4f}")
    for name, value in best.configuration.items():
        out.print(f"  {name}: {_value(value)}", style="bold" if name in best.sampled else "dim")


def study_list(studies: Sequence[StudySummary]) -> None:
    """Print the studies of a store."""
    table = Table(box=None, pad_edge=False)
    for column in ("study", "metric", "best", "trials", "completed", "pruned", "failed", "unfinished"):
        table.add_column(column, justify="left" if column in ("study", "metric") else "right")
    for study in studies:
        counts = (study.trials, study.completed, study.pruned, study.failed, study.unfinished)
        table.add_row(Text(study.name), study.metric or "-", _number(study.best, 4), *map(str, counts))
    console().print(table if studies else "The store holds no study yet.")


def space_list() -> None:
    """Print the shipped spaces."""
    table = Table(box=None, pad_edge=False)
    for column in ("space", "parameters", "for"):
        table.add_column(column)
    for name in shipped_spaces():
        table.add_row(name, str(len(load_space(name).parameters)), space_description(name))
    console().print(table)


def space_table(space: SearchSpace) -> None:
    """Print a space, a parameter a line."""
    table = Table(title=Text(f"Space {space.name}"), title_justify="left", box=None, pad_edge=False)
    for column in ("hyperparameter", "values", "only when", "default"):
        table.add_column(column, overflow="fold")
    for row in space.rows():
        table.add_row(Text(row.name), Text(row.values), Text(row.condition), Text(row.default))
    console().print(table)


def _varied(trials: Sequence[TrialResult]) -> list[str]:
    """Return the hyperparameters that the search varied, in the order of the space."""
    return list(dict.fromkeys(name for trial in trials for name in trial.sampled))


def _others(results: StudyResults) -> str:
    count = {state: sum(trial.state == state for trial in results.trials) for state in ("PRUNED", "FAIL")}
    unfinished = sum(trial.state in ("RUNNING", "WAITING") for trial in results.trials)
    line = f"{len(results.trials)} trials: {len(results.leaderboard)} completed, {count['PRUNED']} pruned"
    line += f", {count['FAIL']} failed" if count["FAIL"] else ""
    return line + (f", {unfinished} unfinished" if unfinished else "") + "."


def _place(store: str) -> str:
    url = make_url(store)
    if url.get_backend_name() == "sqlite":
        return str(Path(str(url.database)).absolute())
    return url.render_as_string(hide_password=True)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _value(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
