"""The tables and sentences of a report, as plain values; whoever writes them into a page escapes them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hpo.config.times import humanized
from hpo.messages import Ending
from hpo.report.drawing import plain_text, spelled
from hpo.report.report_data import Judged, ReportData
from hpo.store.results import StudyResults, TrialResult
from hpo.verdict.findings import Interval, Verdict
from hpo.verdict.single_scores import interval_of_test
from hpo.verdict.wording import NO_TEST_SPLIT, counted, spread_in_words

SHOWN_TRIALS = 20
SHOWN_REASONS = 30
LONGEST_LABEL = 200
FAILURES: Mapping[str, str] = {
    Ending.FAILED: "failed", Ending.DIED: "its process died", Ending.DIVERGED: "diverged",
    Ending.INFEASIBLE: "not trainable",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTable:
    """Rows of texts under their headings."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int | None = None
    """Row that is set off from the others."""


def dated(moment: float) -> str:
    """Return seconds since 1970 as a date and a time in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def signed(number: float) -> str:
    """Return a difference with its sign."""
    return f"{number:+.4f}"


def counts(results: StudyResults) -> str:
    """Return how many trials there are and how they ended, in words."""
    states = Counter(trial.state for trial in results.trials)
    named = (
        ("COMPLETE", "completed"), ("PRUNED", "given up early"), ("FAIL", "failed"), ("RUNNING", "in training"),
        ("WAITING", "waiting"),
    )  # fmt: skip
    said = [f"{states[state]} {name}" for state, name in named if states[state] or state == "COMPLETE"]
    return f"{counted(len(results.trials), 'trial')}: {', '.join(said)}"


def unsure(material: ReportData) -> tuple[str, ...]:
    """Return in sentences what cannot be said where nothing was confirmed; none where there is a verdict."""
    if material.verdict is not None:
        return ()
    taken, results = material.taken, material.results
    if taken is None:
        return (f"No trial has completed, so there is no configuration to take: {counts(results)}.",)
    first = (
        f"Trial {taken.number} scored best in the search: {results.metric} {_score(taken.score)} on validation. It was "
        f"chosen for that among {counted(len(results.leaderboard), 'trial')}, so part of it is luck."
    )
    unknown = "Whether it is better than the default on new texts, and by how much, was not confirmed."
    default = results.default
    if default is None or default.score is None or default.state != "COMPLETE":
        second = "The search did not train the default configuration to its end, so there is nothing to compare with."
    elif default.number == taken.number:
        second = "It is the default configuration: the search has found nothing that scored better."
        unknown = "What it scores on new texts was not confirmed."
    else:
        lead = (taken.score or 0.0) - default.score
        second = f"The default configuration scored {_score(default.score)}, which is {_score(lead)} less."
    who = "The end of the search" if material.will_confirm else "hpo confirm"
    says = f"{who} trains the best again on fresh seeds, beside the default, and says it."
    return (first, second, unknown, says, *(() if results.has_test_split else (NO_TEST_SPLIT,)))


def confirmed(verdict: Verdict) -> ReportTable:
    """Return the configurations that were trained again on fresh seeds, from best to worst."""
    rows = tuple(
        (
            _numbered(verdict, one.trial), _score(one.score), _between(one.interval),
            str(len(one.scores)), _score(one.search_score), humanized(one.seconds),
        )
        for one in verdict.confirmed
    )  # fmt: skip
    marked = next((place for place, one in enumerate(verdict.confirmed) if one.trial == verdict.recommended), None)
    return ReportTable(
        head=("trial", "confirmed", "95% interval", "seeds", "in the search", "time"), rows=rows, marked=marked
    )


def ladder(material: ReportData) -> ReportTable | None:
    """Return what simple methods score; None where they were not tried."""
    if material.verdict is not None and material.verdict.baselines:
        rows = tuple((one.name, _score(one.score), _between(one.interval)) for one in material.verdict.baselines)
        return ReportTable(head=("baseline", "score", "95% interval"), rows=rows)
    baselines = material.results.baselines
    unjudged = tuple((name, _score(held_out.scores.objective)) for name, held_out in baselines.items())
    return ReportTable(head=("baseline", "score"), rows=unjudged) if unjudged else None


def differences(verdict: Verdict) -> ReportTable:
    """Return by how much the winner scores higher than others, and what is to be taken than baselines."""
    rows = tuple(
        (
            _numbered(verdict, one.trial), one.against, signed(one.difference),
            _between(one.interval, signed_ends=True), one.decision,
        )
        for one in verdict.differences
    )  # fmt: skip
    return ReportTable(head=("trial", "against", "difference", "95% interval", "decision"), rows=rows)


def _numbered(verdict: Verdict, trial: int) -> str:
    is_default = any(one.is_default for one in verdict.confirmed if one.trial == trial)
    return f"{trial} (the default)" if is_default else str(trial)


def test_evaluations(results: StudyResults) -> ReportTable | None:
    """Return every look at the test split; None where there was none."""
    intervals = [interval_of_test(one) for one in results.test]
    rows = tuple(
        (
            str(one.trial), _score(one.held_out.scores.objective), "–" if interval is None else _between(interval),
            str(one.held_out.scores.rows), dated(one.read_at),
        )
        for one, interval in zip(results.test, intervals, strict=True)
    )  # fmt: skip
    return ReportTable(head=("trial", "score", "95% interval, over rows", "texts", "read"), rows=rows) if rows else None


def leaderboard(results: StudyResults, verdict: Verdict | None = None) -> ReportTable | None:
    """Return the best completed trials with what the search varied; None where none has completed."""
    shown = results.leaderboard[:SHOWN_TRIALS]
    varied = tuple(dict.fromkeys(name for trial in shown for name in trial.sampled))
    rows = tuple(
        (
            str(trial.number), spread_in_words(results, trial, verdict), _score(trial.train_score),
            "–" if trial.best_epoch is None else f"{trial.best_epoch:.2f}",
            "–" if trial.seconds is None else humanized(trial.seconds), trial.proposed_by,
            *(_sampled(trial, name) for name in varied),
        )
        for trial in shown
    )  # fmt: skip
    score = f"score ± sd over {'rows and seeds' if verdict else 'rows'}"
    head = ("trial", score, "on training texts", "best epoch", "time", "from", *(_words(name) for name in varied))
    return ReportTable(head=head, rows=rows) if rows else None


def _sampled(trial: TrialResult, name: str) -> str:
    """Return a value that was searched; a dash where it means nothing, or hpo did not train the trial."""
    found = name in trial.sampled and name in trial.configuration
    return spelled(trial.configuration[name]) if found else "–"


def hyperparameters(trial: TrialResult | None) -> ReportTable | None:
    """Return the values that a trial was trained with, those first that the search varied."""
    if trial is None or not trial.configuration:
        return None
    ordered = sorted(trial.trained_with.items(), key=lambda pair: pair[0] not in trial.sampled)
    rows = tuple((name, _exact(value), "searched" if name in trial.sampled else "") for name, value in ordered)
    return ReportTable(head=("hyperparameter", "value", ""), rows=rows)


def classes(judged: Judged | None) -> ReportTable | None:
    """Return how each label fared; None where there are no such scores."""
    if judged is None or not judged.scores.per_class:
        return None
    rows = tuple(
        (
            plain_text(label, LONGEST_LABEL),
            *(_score(row[name]) for name in ("precision", "recall", "f1")),
            f"{row['support']:.0f}",
        )
        for label, row in judged.scores.per_class.items()
    )
    return ReportTable(head=("label", "precision", "recall", "F1", "texts"), rows=rows)


def failures(material: ReportData) -> ReportTable | None:
    """Return what could not be trained and why, the most frequent first; None where everything could."""
    found: dict[tuple[str, str], list[int]] = {}
    for trial in material.results.trials:
        how = FAILURES.get(trial.ending or "", "failed" if trial.state == "FAIL" else None)
        if how is not None and trial.state in ("FAIL", "PRUNED"):
            found.setdefault((how, trial.reason or "no reason was recorded"), []).append(trial.number)
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[1]))
    rows = tuple((str(len(trials)), how, why, _some(trials)) for (how, why), trials in ordered[:SHOWN_REASONS])
    return ReportTable(head=("times", "what", "why", "trials"), rows=rows) if rows else None


def costs(material: ReportData) -> ReportTable:
    """Return what the study took."""
    search, runs = material.state.device_seconds, material.results.confirmation
    rows = [("training and evaluation in the search, summed over all devices", _device_hours(search))]
    if runs:
        again = sum(run.seconds for run in runs)
        rows += [(f"confirmation, {len(runs)} runs", _device_hours(again)), ("in all", _device_hours(search + again))]
    devices = sorted({trial.device for trial in material.results.trials if trial.device})
    rows += [("devices", ", ".join(devices))] if devices else []
    if material.course.begun_at is not None:
        rows.append(("first trial begun", dated(material.course.begun_at)))
    return ReportTable(head=("what", "how much"), rows=tuple(rows))


def _device_hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} device hours ({humanized(seconds)})"


def _some(trials: Sequence[int]) -> str:
    shown = ", ".join(map(str, trials[:10]))
    return f"{shown} and {len(trials) - 10} more" if len(trials) > 10 else shown


def _between(interval: Interval, *, signed_ends: bool = False) -> str:
    low, high = (signed(end) if signed_ends else _score(end) for end in (interval.low, interval.high))
    return f"{low} to {high}"


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _exact(value: object) -> str:
    """Return a value with all its digits."""
    return repr(value) if isinstance(value, float) else spelled(value)
