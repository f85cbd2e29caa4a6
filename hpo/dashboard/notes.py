"""Dashboard notes: Markdown on a study and on its trials, made from the store."""

import re
from collections.abc import Iterable

from hpo.report import tables
from hpo.report.drawing import value_text
from hpo.report.report_data import ReportData
from hpo.store.results import TrialResult
from hpo.verdict.wording import counted

SIGNED = "*Written by hpo from the store. A note of yours takes its place.*"
MOST_REASONS = 5
ENDED = {"FAIL": "Failed", "PRUNED": "Pruned"}


def study_note(data: ReportData) -> str:
    """Return the note of a study: the verdict, or what is not known yet; the configuration to take; what failed."""
    advice = ["### Advice", _listed(map(escaped, data.advice))] if data.advice else []
    return "\n\n".join([*_standing(data), *_configuration(data), *advice, *_failures(data), SIGNED])


def trial_notes(data: ReportData) -> dict[int, str]:
    """Return trial -> its note, of those that failed, were pruned, or were confirmed."""
    results = data.results
    notes = {
        trial.number: f"**{ENDED[trial.state]}{_progress(data, trial)}.** {as_code(trial.reason)}"
        for trial in results.trials
        if trial.state in ENDED and trial.reason
    }
    for one in data.verdict.confirmed if data.verdict else ():
        notes[one.trial] = (
            f"**Confirmed** on {counted(len(one.scores), 'fresh seed')}: {escaped(results.metric)} {one.score:.4f} "
            f"({one.interval.low:.4f} to {one.interval.high:.4f}); in the search it scored {one.search_score:.4f}."
        )
    return {number: f"{note}\n\n{SIGNED}" for number, note in notes.items()}


def _progress(data: ReportData, trial: TrialResult) -> str:
    """Return where a trial was pruned."""
    if trial.state != "PRUNED" or trial.score is None or trial.rung is None:
        return ""
    of = "folds" if data.in_folds else "longest trial"
    return f" at {escaped(data.results.metric)} {trial.score:.4f}, after {trial.rung / 10:.0f}% of the {of}"


def escaped(text: object) -> str:
    """Return `text` on one line as Markdown shows it letter by letter: no markup and no HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def as_code(text: str) -> str:
    """Return `text` on one line as Markdown's code, in which not even an address becomes a link."""
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"


def _standing(data: ReportData) -> list[str]:
    running = ["The search still runs."] if data.led_by else []
    if data.verdict is not None:
        return ["## Verdict", *running, _listed(map(escaped, data.verdict.sentences))]
    best = data.recommended
    heading = "No trial has completed yet" if best is None else f"Best so far: trial {best.number}"
    return [f"## {heading}", *running, _listed(map(escaped, tables.unconfirmed(data)))]


def _configuration(data: ReportData) -> list[str]:
    trial, found = data.recommended, data.recommended_scores
    if trial is None:
        return []
    values = [(name, trial.configuration[name]) for name in trial.sampled if name in trial.configuration]
    searched = [_table(("hyperparameter", "value"), values)] if values else []
    if found is None:
        return searched
    scores = _table(("score", "value"), found.scores.values.items())
    return [f"### Trial {trial.number}", *searched, f"Scores on {found.source}:", scores]


def _failures(data: ReportData) -> list[str]:
    """Return the reasons of the trials that could not be trained, the most frequent first."""
    if (found := tables.failures(data)) is None:
        return []
    lines = [f"{times} × {how}: {as_code(why)}" for times, how, why, _ in found.rows[:MOST_REASONS]]
    if len(found.rows) > MOST_REASONS:
        lines.append(f"{len(found.rows) - MOST_REASONS} more reasons, each in the note of its trial.")
    failed = sum(int(times) for times, *_ in found.rows)
    return [f"### Failed: {failed} of {len(data.results.trials)} trials", _listed(lines)]


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"| {escaped(head[0])} | {escaped(head[1])} |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {escaped(name)} | {escaped(value_text(value))} |" for name, value in rows)])
