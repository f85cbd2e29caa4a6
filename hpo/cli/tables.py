"""Prints studies, leaderboards and spaces as tables."""

import os
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import make_url

from hpo.data.checks import quoted
from hpo.messages import Scores
from hpo.report.drawing import plain_text
from hpo.space.domains import as_yaml
from hpo.space.search_space import SearchSpace
from hpo.space.space_file import load_space, shipped_spaces, space_description
from hpo.store.database import sqlite_path, without_password
from hpo.store.results import StudyResults, TestEvaluation
from hpo.store.studies import StudySummary
from hpo.verdict.findings import Verdict
from hpo.verdict.wording import NO_TEST_SPLIT, spread_in_words

SHOWN_TRIALS = 10
ABSENT = "-"
RESULT_COLUMNS = ("trial", "score", "train", "epoch", "seconds")
"""Columns of numbers, which a narrow terminal must not cut."""
GAP = 2
"""Spaces between two columns."""


def console() -> Console:
    """Return standard output as rich writes to it: a pipe gets wide plain lines."""
    return Console(width=None if os.isatty(1) else 200, highlight=False, markup=False)


def table_of(columns: Iterable[str], *, left: Collection[str] = (), title: str | None = None) -> Table:
    """Return a table without a row; the columns `left` stand at the left, the others, of numbers, at the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def leaderboard(results: StudyResults, verdict: Verdict | None = None) -> None:
    """Print the best completed trials, what the search varied as far as there is room, and a line on the others."""
    out = console()
    shown = results.leaderboard[:SHOWN_TRIALS]
    varied = list(dict.fromkeys(name for trial in shown for name in trial.sampled))
    columns = {
        "trial": [str(trial.number) for trial in shown],
        "score": [spread_in_words(results, trial, verdict) for trial in shown],
        "train": [_number(trial.train_score, 4) for trial in shown],
        "epoch": [_number(trial.best_epoch, 2) for trial in shown],
        "seconds": [_number(trial.seconds, 1) for trial in shown],
        "from": [trial.proposed_by for trial in shown],
        **{name: [_value(trial.configuration.get(name, ABSENT)) for trial in shown] for name in varied},
    }
    fitting = _fitting(columns, out.width)
    by = "rows and seeds" if verdict else "rows"
    title = f"{results.name}: {results.metric} on validation, ± what other {by} move it by (one standard deviation)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in fitting:
        result = name in RESULT_COLUMNS
        table.add_column(name.replace("_", " "), justify="right" if result else "left", no_wrap=result)
    for row in zip(*(columns[name] for name in fitting), strict=True):
        table.add_row(*row)
    out.print()
    if shown:
        out.print(table)
    if left_out := [name for name in varied if name not in fitting]:
        out.print(f"Also varied: {', '.join(left_out)}; hpo export --trial N has all of a trial.", soft_wrap=True)
    out.print(_others(results))


def _fitting(columns: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Return the first columns that fit beside each other whole; a heading may break between its words."""
    fitting: list[str] = []
    left = width
    for name, cells in columns.items():
        left -= max(map(len, (*name.split("_"), *cells))) + (GAP if fitting else 0)
        if left < 0:
            break
        fitting.append(name)
    return fitting


def summary(
    results: StudyResults, verdict: Verdict | None, store: str, output: Path | None, *, interrupted: bool
) -> None:
    """Print what a search ended with: the verdict, the test score, and where everything is."""
    out = console()
    out.print()
    if verdict is not None:
        for sentence in verdict.sentences:
            out.print(sentence, soft_wrap=True)
    elif results.leaderboard:
        best = results.best
        out.print(f"Best: trial {best.number}, {results.metric} {best.score:.4f} on validation, not confirmed.")
        _best_unfinished(out, results)
        _untested(out, results)
    else:
        leads = results.best_unfinished
        so_far = f" Trial {leads.number} leads, unfinished; hpo best has its configuration." if leads else ""
        out.print(f"No trial has completed, so there is no best configuration.{so_far}", soft_wrap=True)
    if results.leaderboard and (same := one_answer(results, verdict.recommended if verdict else results.best.number)):
        out.print(same, soft_wrap=True)
    if results.test:
        _tested(out, results)
    out.print(f"Store: {_place(store)}", soft_wrap=True)
    if output is not None:
        out.print(f"Configuration to take: {output.absolute()}", soft_wrap=True)
        named = f"--store {shlex.quote(_place(store))} --study {shlex.quote(results.name)}"
        out.print(f"All of it, with figures: hpo report {named}", soft_wrap=True)
    if interrupted:
        out.print("Interrupted; the same command goes on.")


def one_answer(results: StudyResults, number: int) -> str | None:
    """Say that a trial predicts the same label for every row, whatever its score is; None where it does not."""
    scores = next((trial.validation for trial in results.trials if trial.number == number), None)
    if scores is None or not scores.confusion:
        return None
    predicted = [sum(column) for column in zip(*scores.confusion, strict=True)]
    labels = [label for label, count in zip(scores.per_class, predicted, strict=True) if count]
    if len(labels) != 1:
        return None
    support = {label: of_class["support"] for label, of_class in scores.per_class.items()}
    most = [label for label, rows in support.items() if rows == max(support.values())]
    majority = ", the majority's label" if most == labels else ""
    return (
        f"Trial {number} predicts {quoted(labels[0])}{majority}, for all {scores.rows:,} validation rows: it has "
        "learned nothing of the texts. Give more rows of the other labels, more epochs, or class_weights: balanced."
    )


def told(verdict: Verdict | None) -> None:
    """Print what a confirmation has shown."""
    out = console()
    for sentence in verdict.sentences if verdict else ("What was confirmed does not suffice for a verdict yet.",):
        out.print(sentence, soft_wrap=True)
    out.print()


def _tested(out: Console, results: StudyResults) -> None:
    """Print the last look at the test split, and whether it was the first."""
    last, looks = results.test[-1], len(results.test)
    read = (
        "read once" if looks == 1 else f"read {looks} times, for another trial each time: only the first was unbiased"
    )
    score = f"{last.held_out.scores.metric} {_sure(last)}"
    out.print(f"Test split, {read}: trial {last.trial}, {score}, {last.held_out.scores.rows} texts.", soft_wrap=True)


def _sure(look: TestEvaluation) -> str:
    """Return a score on the test split with its 95% interval over rows."""
    # Only where there is one: its packages take their time.
    from hpo.verdict.single_scores import interval_of_test

    found = interval_of_test(look)
    return f"{look.held_out.scores.objective:.4f}" + (f" [{found.low:.4f}, {found.high:.4f}]" if found else "")


def _untested(out: Console, results: StudyResults) -> None:
    """Print that there is no test split, where a verdict has not said so, and there is none."""
    if not results.has_test_split:
        out.print(NO_TEST_SPLIT, soft_wrap=True)


def to_take(results: StudyResults, verdict: Verdict | None) -> None:
    """Print the scores of the trial to take, class by class, and its hyperparameters; of the one that leads if none has
    completed."""
    leads = None if results.leaderboard else results.best_unfinished
    best, out = leads or results.best, console()
    by, sure = "", ", not confirmed"
    if leads is not None:
        out.print("No trial has completed. Of the unfinished ones this leads, at its newest evaluation:")
    if verdict is not None:
        best, by, sure = results.trials[verdict.recommended], ", which the verdict says to take", ""
    out.print(f"Trial {best.number} of study {results.name}{by}: {results.metric} {best.score:.4f} on validation{sure}")
    if best.train_score is not None:
        out.print(f"  on training texts {best.train_score:.4f}, at epoch {best.best_epoch:.2f}")
    for place, look in enumerate(results.test):
        if look.trial == best.number:
            again = ", a second look, which may be too high" if place else ""
            out.print(f"  on the test split {_sure(look)}{again}")
    if verdict is None:
        _untested(out, results)
    if best.validation is not None:
        _scores(out, best.validation)
    out.print("Hyperparameters:")
    for name, value in best.trained_with.items():
        out.print(f"  {name}: {_value(value)}", style="bold" if name in best.sampled else "dim")
    if leads is None:
        _best_unfinished(out, results)


def _best_unfinished(out: Console, results: StudyResults) -> None:
    """Print the unfinished trial that scores higher than all that have completed, where there is one."""
    if (leads := results.best_unfinished) is not None:
        sampled = ", ".join(f"{name} {_value(leads.configuration[name])}" for name in leads.sampled)
        out.print(
            f"Trial {leads.number}, unfinished, already scores higher at its newest evaluation: {results.metric} "
            f"{leads.score:.4f}, with {sampled}.",
            soft_wrap=True,
        )


def _scores(out: Console, scores: Scores) -> None:
    """Print every score, and how each class fared."""
    out.print("  " + ", ".join(f"{name} {value:.4f}" for name, value in scores.values.items()))
    if not scores.per_class:
        return
    taken_for = (f"as {plain_text(label)}" for label in scores.per_class)
    table = table_of(("class", "precision", "recall", "F1", "texts", *taken_for), left=("class",))
    for (label, row), counts in zip(scores.per_class.items(), scores.confusion, strict=True):
        ratios = (f"{row[name]:.4f}" for name in ("precision", "recall", "f1"))
        table.add_row(plain_text(label), *ratios, f"{row['support']:.0f}", *map(str, counts))
    out.print(table)


def study_list(studies: Sequence[StudySummary]) -> None:
    """Print the studies of a store."""
    columns = ("study", "metric", "best", "trials", "completed", "pruned", "failed", "unfinished")
    table = table_of(columns, left=("study", "metric"))
    for study in studies:
        counts = (study.trials, study.completed, study.pruned, study.failed, study.unfinished)
        table.add_row(study.name, study.metric or "-", _number(study.best, 4), *map(str, counts))
    console().print(table if studies else "The store holds no study yet.")


def space_list() -> None:
    """Print the shipped spaces."""
    columns = ("space", "parameters", "for")
    table = table_of(columns, left=columns)
    for name in shipped_spaces():
        table.add_row(name, str(len(load_space(name).parameters)), space_description(name))
    console().print(table)


def space_table(space: SearchSpace) -> None:
    """Print a space, a parameter a line; where its ranges come from if it says so."""
    columns = ["hyperparameter", "values", "only when", "default"]
    columns += ["source"] if any(one.source for one in space.parameters) else []
    table = Table(title=f"Space {space.name}", title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for one in space.parameters:
        cells = (one.name, one.describe_values(), one.describe_condition(), as_yaml(one.default), one.source)
        table.add_row(*cells[: len(columns)])
    console().print(table)


def _others(results: StudyResults) -> str:
    count = {state: sum(trial.state == state for trial in results.trials) for state in ("PRUNED", "FAIL")}
    unfinished = sum(trial.state in ("RUNNING", "WAITING") for trial in results.trials)
    said = "1 trial" if len(results.trials) == 1 else f"{len(results.trials)} trials"
    line = f"{said}: {len(results.leaderboard)} completed, {count['PRUNED']} pruned"
    line += f", {count['FAIL']} failed" if count["FAIL"] else ""
    return line + (f", {unfinished} unfinished" if unfinished else "") + "."


def _place(store: str) -> str:
    file = sqlite_path(store)
    return without_password(make_url(store)) if file is None else str(file.absolute())


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _value(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
