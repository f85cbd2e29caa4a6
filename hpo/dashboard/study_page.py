"""Study page: notes, figures and pictures added to the pages of optuna-dashboard, without writing to the store."""

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hpo.dashboard.pictures import DRAWN, artifacts_of, picture
from hpo.errors import HpoError
from hpo.report import tables
from hpo.report.drawing import GREY, value_text
from hpo.report.figures import FIGURES
from hpo.report.report_data import ReportData, read_report_data
from hpo.store.database import Database
from hpo.store.leases import leader_of, read_lease
from hpo.store.optuna_adapter import StudyModel
from hpo.store.results import TrialResult
from hpo.store.tables import StudyRows, events
from hpo.verdict.wording import counted

SIGNED = "*Written by hpo from the store. Your own note replaces it.*"
MOST_REASONS = 5
ENDED = {"FAIL": "Failed", "PRUNED": "Pruned"}
Version = tuple[int | None, str | None]
"""The newest event in the store, and the process that leads the study."""
FIGURES_SHOWN = {
    "confusion_matrix": "Confusion matrix (%)",
    "over_time": "Best score over time",
    "learning_curves": "Learning curves",
    "by_group": "Score by group",
    "by_length": "Score by length",
}
"""Name in `FIGURES` -> title, for figures that optuna-dashboard does not have itself."""
OF_ONE_TRIAL = ("confusion_matrix", "by_group", "by_length")
"""Figures of the recommended trial."""
AXIS = {"gridcolor": "rgba(138,143,152,0.25)", "automargin": True}
LAYOUT = {
    "height": 450,  # The height of optuna-dashboard's own figures.
    "margin": {"t": 70},
    # At the top, as in a report, it would cover the title.
    "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    "template": "none",
    # Legible on light and on dark pages.
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": GREY},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY},
    # A constant value, so that updates keep the reader's zoom.
    "uirevision": "hpo",
}


def study_note(data: ReportData) -> str:
    """Return the note of a study: verdict or intermediate state, recommended configuration, advice and failures."""
    advice = ["### Advice", _listed(map(escaped, data.advice))] if data.advice else []
    return "\n\n".join([*_standing(data), *_configuration(data), *advice, *_failures(data), SIGNED])


def trial_notes(data: ReportData) -> dict[int, str]:
    """Return trial -> its note, for trials that failed, were pruned or were confirmed."""
    results = data.results
    notes = {
        trial.number: f"**{ENDED[trial.state]}{_progress(data, trial)}.** {as_code(trial.reason)}"
        for trial in results.trials
        if trial.state in ENDED and trial.reason
    }
    for one in data.verdict.confirmed if data.verdict else ():
        searched = "the search did not train it to its end"
        if one.search_score is not None:
            searched = f"in the search it scored {one.search_score:.4f}"
        notes[one.trial] = (
            f"**Confirmed** on {counted(len(one.scores), 'fresh seed')}: {escaped(results.metric)} {one.score:.4f} "
            f"({one.interval.low:.4f} to {one.interval.high:.4f}); {searched}."
        )
    return {number: f"{note}\n\n{SIGNED}" for number, note in notes.items()}


def _progress(data: ReportData, trial: TrialResult) -> str:
    """Return the score and the progress at which a trial was pruned; empty if unknown."""
    if trial.state != "PRUNED" or trial.score is None or trial.rung is None:
        return ""
    of = "folds" if data.in_folds else "longest trial"
    return f" at {escaped(data.results.metric)} {trial.score:.4f}, after {trial.rung / 10:.0f}% of the {of}"


def escaped(text: object) -> str:
    """Return `text` on one line, escaped so that Markdown shows it without markup or HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def as_code(text: str) -> str:
    """Return `text` on one line as code in Markdown, in which not even an address becomes a link."""
    line = " ".join(text.split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}"


def _standing(data: ReportData) -> list[str]:
    running = ["The search is still running."] if data.led_by else []
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
    """Return the reasons why trials failed, the most frequent first."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """Additions to the pages of one study."""

    note: str = ""
    """Markdown."""
    trial_notes: Mapping[int, str] = field(default_factory=dict)
    """Trial -> Markdown."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """Name -> plotly's JSON."""
    artifacts: Mapping[int, Sequence[Mapping[str, str | None]]] = field(default_factory=dict)
    """Trial -> its pictures, in the format of artifacts."""
    data: ReportData | None = None
    """Data of the pictures; None if hpo has nothing to add."""


class DashboardAdditions:
    """Additions to the pages of a store's studies, recomputed after an event in the store or a change of leader."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made: dict[str, tuple[Version, Additions]] = {}
        # Every open page requests its study every few seconds, each request in its own thread.
        self._lock = threading.Lock()
        self._drawing = threading.Lock()

    def add_to(self, page: dict[str, Any]) -> dict[str, Any]:
        """Return the page of a study with figures, pictures, and notes where the user has none."""
        additions = self._of(page["name"])
        page["note"] = _unless_written(page["note"], additions.note)
        for trial in (*page["trials"], *page["best_trials"]):
            trial["note"] = _unless_written(trial["note"], additions.trial_notes.get(trial["number"], ""))
            trial["artifacts"] = additions.artifacts.get(trial["number"], [])
        page["plotly_graph_objects"] += [
            {"id": f"hpo-{name}", "graph_object": drawn} for name, drawn in additions.figures.items()
        ]
        return page

    def picture(self, study: str, identifier: str) -> bytes | None:
        """Return a picture of a trial, as SVG; None if there is none with that `artifact_id`."""
        additions = self._of(study)
        known = {artifact["artifact_id"] for listed in additions.artifacts.values() for artifact in listed}
        if identifier not in known or additions.data is None:
            return None
        trial, place = map(int, identifier.split("-"))
        with self._drawing:
            return picture(additions.data, list(DRAWN)[place], trial)

    def _of(self, study: str) -> Additions:
        with self._lock:
            version = self._version(study)
            if self._made.get(study, (None,))[0] != version:
                self._made[study] = (version, self._anew(study))
            return self._made[study][1]

    def _version(self, study: str) -> Version:
        with self._database.read_transaction() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.event_id))).scalar()
            named = sa.select(StudyModel.study_id).where(StudyModel.study_name == study)
            study_id = connection.execute(named).scalar()
            lease = None if study_id is None else read_lease(StudyRows(study_id, connection))
        # The end of a lease is no event.
        return newest, None if lease is None else leader_of(lease)

    def _anew(self, study: str) -> Additions:
        try:
            data = read_report_data(self._database, study)
        except HpoError as error:
            # Such as a study that hpo did not create: optuna-dashboard shows it without additions.
            return Additions(note=f"hpo has nothing to add: {error}")
        return Additions(
            note=study_note(data),
            trial_notes=trial_notes(data),
            figures=_drawn(data),
            artifacts=artifacts_of(data),
            data=data,
        )


def _drawn(data: ReportData) -> dict[str, str]:
    drawn = {}
    for name, title in FIGURES_SHOWN.items():
        figure = FIGURES[name](data)
        if not isinstance(figure, str):
            if name in OF_ONE_TRIAL and (found := data.recommended_scores) is not None:
                title += f"<br><sup>Of trial {found.trial}, on {found.source}.</sup>"
            figure.update_layout(LAYOUT, title={"text": title, "x": 0.02, "xanchor": "left"})
            figure.update_xaxes(AXIS).update_yaxes(AXIS)
            drawn[name] = str(figure.to_json())
    return drawn


def _unless_written(note: dict[str, Any], ours: str) -> dict[str, Any]:
    """Return the user's own note, which has a version, or else the note of hpo."""
    return note if note["version"] else {"version": 0, "body": ours}
