"""Report tables and sentences, as plain text without escapes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hpo.config.times import humanized
from hpo.messages import Ending, Scores
from hpo.report.drawing import plain_text, value_text
from hpo.report.report_data import ReportData
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.findings import Interval, Verdict
from hpo.verdict.gain import gain_sentences
from hpo.verdict.wording import NO_TEST_SPLIT, counted, spread_in_words

SHOWN_TRIALS = 20
SHOWN_REASONS = 30
LONGEST_LABEL = 200
RESULT_COLUMNS = 5
"""Number of leading numeric columns of a leaderboard; then the proposer of a trial and its hyperparameters follow."""
STATES: Mapping[str, str] = {
    "COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "in training", "WAITING": "paused",
}  # fmt: skip
FAILURES: Mapping[str, str] = {
    Ending.FAILED: "failed", Ending.DIED: "its process died", Ending.DIVERGED: "diverged",
    Ending.INFEASIBLE: "not trainable",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """Rows of text with their headings."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None
    """Index of the highlighted row."""


def dated(moment: float) -> str:
    """Return seconds since 1970 as a date and a time in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def scored(score: float | None) -> str:
    """Return a score with four digits; a dash without a score."""
    return "–" if score is None else f"{score:.4f}"


def counts(results: StudyResults) -> str:
    """Return the number of trials, in total and by state, in words, without those that were never begun."""
    states = Counter(trial.state for trial in results.trials if trial.state != "WAITING" or trial.configuration)
    parts = [f"{states[state]} {name}" for state, name in STATES.items() if states[state] or state == "COMPLETE"]
    return f"{counted(states.total(), 'trial')}: {', '.join(parts)}"


def unconfirmed(data: ReportData) -> tuple[str, ...]:
    """Return sentences on the best trial of an unconfirmed search, and on what is unknown; none with a verdict."""
    if data.verdict is not None:
        return ()
    best, results = data.recommended, data.results
    if best is None:
        return (f"No trial has completed, so there is no configuration to take: {counts(results)}.",)
    first = (
        f"Trial {best.number} scored best in the search: {results.metric} {spread_in_words(results, best)} on "
        f"validation. It was chosen by that score among {counted(len(results.leaderboard), 'trial')}, so part of it is "
        "selection bias."
    )
    unknown = "Whether it is better than the default on new examples, and by how much, was not confirmed."
    default = results.completed_default
    if default is None or default.score is None:
        second = "The search did not train the default configuration to its end, so there is nothing to compare with."
    elif default.number == best.number:
        second = "It is the default configuration: the search has found no better one."
        unknown = "Its score on new examples was not confirmed."
    else:
        lead = (best.score or 0.0) - default.score
        second = f"The default configuration scored {scored(default.score)}, which is {scored(lead)} less."
    who = "The end of the search" if data.will_confirm else "hpo confirm"
    says = f"{who} trains the best trials and the default again on fresh seeds to find out."
    no_test = () if results.has_test_split else (NO_TEST_SPLIT,)
    return (first, second, *gain_sentences(results), unknown, says, *no_test)


def confirmed(verdict: Verdict) -> ReportTable:
    """Return the configurations that were trained again on fresh seeds, from best to worst."""
    rows = tuple(
        (
            _numbered(verdict, one.trial), scored(one.score), _between(one.interval),
            str(len(one.scores)), scored(one.search_score), humanized(one.seconds),
        )
        for one in verdict.confirmed
    )  # fmt: skip
    marked = next((place for place, one in enumerate(verdict.confirmed) if one.trial == verdict.recommended), None)
    return ReportTable(
        head=("trial", "confirmed", "95% interval", "seeds", "in the search", "time"), rows=rows, marked=marked
    )


def baselines(data: ReportData) -> ReportTable | None:
    """Return the scores of the baselines; None if they were not trained."""
    rows = [(name, scored(score), _between(interval)) for name, score, interval in data.baselines]
    return _table(("baseline", "score", "95% interval"), rows)


def differences(verdict: Verdict) -> ReportTable:
    """Return the score differences of the winner and of the recommended trial to other trials and baselines."""
    rows = tuple(
        (
            _numbered(verdict, one.trial), one.against, f"{one.difference:+.4f}", _between(one.interval, "+"),
            one.decision,
        )
        for one in verdict.differences
    )  # fmt: skip
    return ReportTable(head=("trial", "against", "difference", "95% interval", "decision"), rows=rows)


def _numbered(verdict: Verdict, trial: int) -> str:
    return f"{trial} (the default)" if verdict.by_trial[trial].is_default else str(trial)


def test_evaluations(results: StudyResults) -> ReportTable | None:
    """Return every evaluation on the test split; None if there was none."""
    # Imported here, because its packages are slow to import.
    from hpo.verdict.comparison import interval_of_test

    rows = [
        (
            str(one.trial), scored(one.held_out.scores.objective), _between(interval_of_test(one)),
            str(one.held_out.scores.rows), dated(one.read_at),
        )
        for one in results.test
    ]  # fmt: skip
    return _table(("trial", "score", "95% interval, over rows", "examples", "read"), rows)


def leaderboard(results: StudyResults, verdict: Verdict | None = None, most: int = SHOWN_TRIALS) -> ReportTable | None:
    """Return the best completed trials with their searched hyperparameters; None if no trial has completed."""
    shown = results.leaderboard[:most]
    varied = tuple(dict.fromkeys(name for trial in shown for name in trial.sampled))
    rows = [
        (
            str(trial.number), spread_in_words(results, trial, verdict), scored(trial.train_score),
            "–" if trial.best_epoch is None else f"{trial.best_epoch:.2f}",
            "–" if trial.seconds is None else humanized(trial.seconds), trial.proposed_by,
            *(_sampled(trial, name) for name in varied),
        )
        for trial in shown
    ]  # fmt: skip
    head = ("trial", "score", "train", "epoch", "time", "from", *(name.replace("_", " ") for name in varied))
    return _table(head, rows)


def _sampled(trial: TrialResult, name: str) -> str:
    """Return a searched value; a dash if the trial does not use it, or hpo did not train the trial."""
    found = name in trial.sampled and name in trial.configuration
    return value_text(trial.configuration[name], 3) if found else "–"


def hyperparameters(trial: TrialResult) -> ReportTable | None:
    """Return the exact values that a trial was trained with, the searched ones first."""
    ordered = sorted(trial.trained_with.items(), key=lambda pair: pair[0] not in trial.sampled)
    rows = [(name, _exact(value), "searched" if name in trial.sampled else "") for name, value in ordered]
    return _table(("hyperparameter", "value", ""), rows)


def classes(scores: Scores) -> ReportTable | None:
    """Return the scores of each label; None if there are none."""
    rows = [
        (
            plain_text(label, LONGEST_LABEL),
            *(scored(row[name]) for name in ("precision", "recall", "f1")),
            f"{row['support']:.0f}",
        )
        for label, row in scores.per_class.items()
    ]
    return _table(("label", "precision", "recall", "F1", "examples"), rows)


def failures(data: ReportData) -> ReportTable | None:
    """Return failures with reasons and trials, the most frequent first; None if every trial could be trained."""
    found: dict[tuple[str, str], list[int]] = {}
    for trial in data.results.trials:
        how = FAILURES.get(trial.ending or "", "failed" if trial.state == "FAIL" else None)
        if how is not None and trial.state in ("FAIL", "PRUNED"):
            found.setdefault((how, trial.reason or "no reason was recorded"), []).append(trial.number)
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[1]))
    rows = [(str(len(trials)), how, why, _some(trials)) for (how, why), trials in ordered[:SHOWN_REASONS]]
    return _table(("times", "what", "why", "trials"), rows)


def costs(data: ReportData) -> ReportTable:
    """Return the costs of the study."""
    search, runs = data.state.device_seconds, data.results.confirmation
    rows = [("training and evaluation in the search, summed over all devices", _device_hours(search))]
    if runs:
        again = sum(run.seconds for run in runs)
        rows += [(f"confirmation, {len(runs)} runs", _device_hours(again)), ("in all", _device_hours(search + again))]
    devices = sorted({trial.device for trial in data.results.trials if trial.device})
    rows += [("devices", ", ".join(devices))] if devices else []
    if data.history.begun_at is not None:
        rows.append(("first trial begun", dated(data.history.begun_at)))
    return ReportTable(head=("what", "how much"), rows=tuple(rows))


def versions(results: StudyResults) -> ReportTable:
    """Return the versions that were recorded with a study."""
    return ReportTable(head=("package", "version"), rows=tuple(results.versions.items()))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> ReportTable | None:
    """Return a table; None without a row."""
    return ReportTable(head=head, rows=tuple(rows)) if rows else None


def _device_hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} device hours ({humanized(seconds)})"


def _some(trials: Sequence[int]) -> str:
    shown = ", ".join(map(str, trials[:10]))
    return f"{shown} and {len(trials) - 10} more" if len(trials) > 10 else shown


def _between(interval: Interval | None, sign: str = "") -> str:
    return "–" if interval is None else f"{interval.low:{sign}.4f} to {interval.high:{sign}.4f}"


def _exact(value: object) -> str:
    return repr(value) if isinstance(value, float) else value_text(value)
