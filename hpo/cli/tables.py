"""Printed results: tables of studies, leaderboards and spaces, and the summary of a search."""

import os
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from hpo.data.labels import quoted
from hpo.messages import Scores
from hpo.report import tables
from hpo.report.drawing import plain_text, value_text
from hpo.space.domains import as_yaml
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces, space_description
from hpo.store.database import sqlite_path, without_password
from hpo.store.results import StudyResults, TestEvaluation
from hpo.store.studies import StudySummary
from hpo.verdict.findings import Verdict
from hpo.verdict.wording import NO_TEST_SPLIT

SHOWN_TRIALS = 10
GAP = 2
"""Spaces between two columns."""


def console() -> Console:
    """Return rich's console on standard output; a pipe gets wide plain lines."""
    return Console(width=None if os.isatty(1) else 200, highlight=False, markup=False)


def table_of(columns: Iterable[str], *, left: Collection[str] = (), title: str | None = None, **options: Any) -> Table:
    """Return a table without rows; the columns `left` are aligned left, the others, with numbers, right.

    Args:
        columns: headings.
        left: columns that are aligned left.
        title: title of the table.
        options: rich's options of each column.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", **options)
    return table


def print_leaderboard(results: StudyResults, verdict: Verdict | None = None) -> None:
    """Print the best completed trials with the searched hyperparameters that fit, and the states of all trials."""
    out = console()
    out.print()
    if board := tables.leaderboard(results, verdict, SHOWN_TRIALS):
        fitting = _fitting([board.head, *board.rows], out.width)
        by = "rows and seeds" if verdict else "rows"
        table = table_of(
            board.head[:fitting],
            left=board.head[tables.RESULT_COLUMNS :],
            title=f"{results.name}: {results.metric} on validation, ± one standard deviation over {by}",
        )
        for row in board.rows:
            table.add_row(*row[:fitting])
        out.print(table)
        if left_out := board.head[max(fitting, tables.RESULT_COLUMNS + 1) :]:
            out.print(f"Also varied: {', '.join(left_out)}; hpo export --trial N has all of a trial.", soft_wrap=True)
    out.print(f"{tables.counts(results)}.")


def _fitting(rows: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns fit without cut cells; a heading may break between its words."""
    left = width + GAP
    for fitting, (heading, *cells) in enumerate(zip(*rows, strict=True)):
        left -= max(map(len, (*heading.split(), *cells))) + GAP
        if left < 0:
            return fitting
    return len(rows[0])


def print_summary(
    results: StudyResults, verdict: Verdict | None, store: str, output: Path | None, *, interrupted: bool
) -> None:
    """Print the result of a search: the verdict, the test score, and the places of store and files."""
    out = console()
    out.print()
    for sentence in _findings(results, verdict):
        out.print(sentence, soft_wrap=True)
    file = sqlite_path(store)
    place = without_password(make_url(store)) if file is None else str(file.absolute())
    out.print(f"Store: {place}", soft_wrap=True)
    if output is not None:
        out.print(f"Configuration to take: {output.absolute()}", soft_wrap=True)
        named = f"--store {shlex.quote(place)} --study {shlex.quote(results.name)}"
        out.print(f"Full results with figures: hpo report {named}", soft_wrap=True)
    if interrupted:
        out.print("Interrupted; the same command resumes it.")


def _findings(results: StudyResults, verdict: Verdict | None) -> Iterable[str]:
    """Return sentences on the result of a search: the verdict, or the best trial, and the test score."""
    if verdict is not None:
        yield from verdict.sentences
    elif results.leaderboard:
        # Imported here, because its packages are slow to import.
        from hpo.verdict.gain import gain_sentences

        best = results.best
        yield f"Best: trial {best.number}, {results.metric} {best.score:.4f} on validation, not confirmed."
        yield from gain_sentences(results)
        yield from _unfinished(results)
        yield from _no_test_split(results)
    else:
        leads = results.best_unfinished
        so_far = f" Trial {leads.number} leads, unfinished; hpo best has its configuration." if leads else ""
        yield f"No trial has completed, so there is no best configuration.{so_far}"
    if results.leaderboard:
        yield from single_prediction(results, verdict.recommended if verdict else results.best.number)
    if results.test:
        last, times = results.test[-1], len(results.test)
        again = f"read {times} times, for another trial each time: only the first was unbiased"
        score = f"{last.held_out.scores.metric} {_with_interval(last)}"
        read = "read once" if times == 1 else again
        yield f"Test split, {read}: trial {last.trial}, {score}, {last.held_out.scores.rows} examples."


def single_prediction(results: StudyResults, number: int) -> Iterable[str]:
    """Return a sentence if a trial predicts the same label for every row, whatever its score."""
    scores = next((trial.validation for trial in results.trials if trial.number == number), None)
    if scores is None or not scores.confusion:
        return
    predicted = [sum(column) for column in zip(*scores.confusion, strict=True)]
    labels = [label for label, count in zip(scores.per_class, predicted, strict=True) if count]
    if len(labels) != 1:
        return
    support = {label: of_class["support"] for label, of_class in scores.per_class.items()}
    most = [label for label, rows in support.items() if rows == max(support.values())]
    majority = ", the majority's label" if most == labels else ""
    yield (
        f"Trial {number} predicts {quoted(labels[0])}{majority}, for all {scores.rows:,} validation rows: it has "
        "learned nothing from the texts. Give more rows of the other labels, more epochs, or class_weights: balanced."
    )


def print_verdict(verdict: Verdict | None) -> None:
    """Print the verdict, or that the confirmed runs do not suffice for one."""
    out = console()
    for sentence in verdict.sentences if verdict else ("The confirmed runs do not suffice for a verdict yet.",):
        out.print(sentence, soft_wrap=True)
    out.print()


def _with_interval(test: TestEvaluation) -> str:
    """Return a score on the test split with its 95% interval over rows."""
    # Imported here, because its packages are slow to import.
    from hpo.verdict.comparison import interval_of_test

    found = interval_of_test(test)
    return f"{test.held_out.scores.objective:.4f}" + (f" [{found.low:.4f}, {found.high:.4f}]" if found else "")


def _no_test_split(results: StudyResults) -> Iterable[str]:
    """Return a sentence if there is no test split; a verdict contains it already."""
    return () if results.has_test_split else (NO_TEST_SPLIT,)


def print_recommended(results: StudyResults, verdict: Verdict | None) -> None:
    """Print scores and hyperparameters of the recommended trial, or of the leading one if none has completed."""
    leads = None if results.leaderboard else results.best_unfinished
    best, out = leads or results.best, console()
    by, sure = "", ", not confirmed"
    if leads is not None:
        out.print("No trial has completed. The leading unfinished trial, at its newest evaluation:")
    if verdict is not None:
        best = results.trained(verdict.recommended) or best
        by, sure = ", recommended by the verdict", ""
        if best not in results.leaderboard:
            sure = " in its first confirmation run, because the search did not train it to its end"
    out.print(f"Trial {best.number} of study {results.name}{by}: {results.metric} {best.score:.4f} on validation{sure}")
    if best.train_score is not None:
        out.print(f"  on training examples {best.train_score:.4f}, at epoch {best.best_epoch:.2f}")
    for place, test in enumerate(results.test):
        if test.trial == best.number:
            again = ", read again, which may be too high" if place else ""
            out.print(f"  on the test split {_with_interval(test)}{again}")
    for sentence in () if verdict else _no_test_split(results):
        out.print(sentence, soft_wrap=True)
    if best.validation is not None:
        _print_scores(out, best.validation)
    out.print("Hyperparameters:")
    for name, value in best.trained_with.items():
        out.print(f"  {name}: {value_text(value, 3)}", style="bold" if name in best.sampled else "dim")
    for sentence in () if leads else _unfinished(results):
        out.print(sentence, soft_wrap=True)


def _unfinished(results: StudyResults) -> Iterable[str]:
    """Return a sentence if an unfinished trial scores higher than all completed ones."""
    if (leads := results.best_unfinished) is not None:
        sampled = ", ".join(f"{name} {value_text(leads.configuration[name], 3)}" for name in leads.sampled)
        yield (
            f"Trial {leads.number}, unfinished, already scores higher at its newest evaluation: {results.metric} "
            f"{leads.score:.4f}, with {sampled}."
        )


def _print_scores(out: Console, scores: Scores) -> None:
    """Print every score, and the scores and predictions of each class."""
    out.print("  " + ", ".join(f"{name} {value:.4f}" for name, value in scores.values.items()))
    if (classes := tables.classes(scores)) is None:
        return
    predicted = (f"as {plain_text(label)}" for label in scores.per_class)
    table = table_of((*classes.head, *predicted), left=classes.head[:1])
    for row, counts in zip(classes.rows, scores.confusion, strict=True):
        table.add_row(*row, *map(str, counts))
    out.print(table)


def print_studies(studies: Sequence[StudySummary]) -> None:
    """Print the studies of a store."""
    columns = ("study", "metric", "best", "trials", "completed", "pruned", "failed", "unfinished")
    table = table_of(columns, left=("study", "metric"))
    for study in studies:
        counts = (study.trials, study.completed, study.pruned, study.failed, study.unfinished)
        table.add_row(study.name, study.metric or "-", tables.scored(study.best), *map(str, counts))
    console().print(table if studies else "The store holds no study yet.")


def print_spaces() -> None:
    """Print the shipped spaces."""
    columns = ("space", "parameters", "for")
    table = table_of(columns, left=columns)
    for name in shipped_spaces():
        table.add_row(name, str(len(load_space(name).parameters)), space_description(name))
    console().print(table)


def print_space(space: SearchSpace) -> None:
    """Print a space with one parameter per line, and the sources of its ranges if it has any."""
    columns = ["hyperparameter", "values", "only when", "default"]
    columns += ["source"] if any(one.source for one in space.parameters) else []
    table = table_of(columns, left=columns, title=f"Space {space.name}", overflow="fold")
    for one in space.parameters:
        cells = (one.name, one.describe_values(), one.describe_condition(), as_yaml(one.default), one.source)
        table.add_row(*cells[: len(columns)])
    out = console()
    out.print(table)
    for published in space.portfolio:
        values = ", ".join(f"{name} {as_yaml(value)}" for name, value in published.values.items())
        out.print(f"Tried after the default ({published.source}): {values}", soft_wrap=True)
