"""What hpo writes into the notes of a study and of its trials: Markdown, made from what the store knows."""

import re
from collections import Counter
from collections.abc import Iterable

from hpo.report.drawing import spelled
from hpo.report.report_data import ReportData
from hpo.store.results import TrialResult
from hpo.verdict.wording import counted, spread_in_words

SIGNED = "*Written by hpo from the store. A note of yours takes its place.*"
MOST_REASONS = 5
ENDED = {"FAIL": "Failed", "PRUNED": "Given up"}


def study_note(material: ReportData) -> str:
    """Return the note of a study: the verdict, or what cannot be said yet; the configuration to take; what failed."""
    parts = [*_standing(material), *_configuration(material), *_advice(material), *_failures(material), SIGNED]
    return "\n\n".join(parts)


def trial_notes(material: ReportData) -> dict[int, str]:
    """Return trial -> its note, of those that failed, were given up, or were confirmed."""
    results = material.results
    notes = {
        trial.number: f"**{ENDED[trial.state]}{_where(material, trial)}.** {verbatim(trial.reason)}"
        for trial in results.trials
        if trial.state in ENDED and trial.reason
    }
    for one in material.verdict.confirmed if material.verdict else ():
        notes[one.trial] = (
            f"**Confirmed** on {counted(len(one.scores), 'fresh seed')}: {plain(results.metric)} {one.score:.4f} "
            f"({one.interval.low:.4f} to {one.interval.high:.4f}); in the search it scored {one.search_score:.4f}."
        )
    return {number: f"{note}\n\n{SIGNED}" for number, note in notes.items()}


def _where(material: ReportData, trial: TrialResult) -> str:
    """Return how far a trial came that was given up."""
    if trial.state != "PRUNED" or trial.score is None or trial.rung is None:
        return ""
    came = f"{trial.rung / 10:.0f}% of the {'folds' if material.in_folds else 'longest trial'} in"
    return f" at {plain(material.results.metric)} {trial.score:.4f}, {came}"


def plain(text: object) -> str:
    """Return `text` on one line as Markdown shows it letter by letter: no markup and no HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def verbatim(text: str) -> str:
    """Return `text` on one line as Markdown's code, in which not even an address becomes a link."""
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"


def _standing(material: ReportData) -> list[str]:
    results, best = material.results, material.taken
    if material.verdict is not None:
        return ["## Verdict", *_listed(material.verdict.sentences)]
    running = ["The search still runs."] if material.led_by else []
    if best is None or best.score is None:
        return ["## No trial has completed yet", *running]
    who = "the end of the search" if material.will_confirm else "`hpo confirm`"
    score = spread_in_words(results, best)
    sure = " (one standard deviation, over rows)" if "±" in score else ""
    said = (
        f"{plain(results.metric)} {score}{sure} on validation, the best of "
        f"{counted(len(results.leaderboard), 'trial')} completed. It was chosen for that score, so expect less of it "
        f"on new texts; {who} says how much less."
    )
    return [f"## Best so far: trial {best.number}", *running, said, *_against_default(material, best)]


def _against_default(material: ReportData, best: TrialResult) -> list[str]:
    default = material.results.default
    if default is None or default.score is None or best.score is None or default.state != "COMPLETE":
        return []
    if default.number == best.number:
        return ["This is the default configuration: nothing beat it yet."]
    return [f"The default configuration, trial {default.number}, scored {default.score:.4f}."]


def _configuration(material: ReportData) -> list[str]:
    trial = material.taken
    if trial is None:
        return []
    rows = [(name, trial.configuration[name]) for name in trial.sampled if name in trial.configuration]
    varied = [_table(("hyperparameter", "value"), rows)] if rows else []
    judged = material.judged
    if judged is None:
        return varied
    scores = _table(("score", "value"), judged.scores.values.items())
    return [f"### Trial {trial.number}", *varied, f"Scores on {judged.source}:", scores]


def _advice(material: ReportData) -> list[str]:
    return ["### Advice", *_listed(material.advice)] if material.advice else []


def _failures(material: ReportData) -> list[str]:
    """Count the reasons of the trials that failed, the most frequent first."""
    failed = [trial for trial in material.results.trials if trial.state == "FAIL"]
    if not failed:
        return []
    counted = Counter(trial.reason or "no reason was recorded" for trial in failed).most_common()
    lines = [f"{count} × {verbatim(reason)}" for reason, count in counted[:MOST_REASONS]]
    if len(counted) > MOST_REASONS:
        lines.append(f"{len(counted) - MOST_REASONS} more reasons, each in the note of its trial.")
    return [f"### Failed: {len(failed)} of {len(material.results.trials)} trials", *_listed(lines, escaped=True)]


def _listed(sentences: Iterable[str], *, escaped: bool = False) -> list[str]:
    return ["\n".join(f"- {sentence if escaped else plain(sentence)}" for sentence in sentences)]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"| {plain(head[0])} | {plain(head[1])} |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {plain(name)} | {plain(spelled(value))} |" for name, value in rows)])
