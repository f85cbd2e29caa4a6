"""What hpo knows of a study, added to what optuna-dashboard tells its pages, without a word written into the store."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hpo.dashboard.notes import study_note, trial_notes
from hpo.dashboard.pictures import TrialPicture, pictures_of
from hpo.errors import HpoError
from hpo.report.drawing import GREY
from hpo.report.figures import FIGURES
from hpo.report.report_data import ReportData, gathered
from hpo.search.leases import leader_of
from hpo.store.database import Database
from hpo.store.leases import read_lease
from hpo.store.optuna_adapter import StudyModel
from hpo.store.rows import StudyRows
from hpo.store.tables import events

Seen = tuple[int | None, str | None]
"""The newest event of the store, and who leads the study."""

FIGURES_SHOWN = {
    "confusion_matrix": "Confusion matrix (%)",
    "over_time": "Best score over time",
    "learning_curves": "Learning curves",
    "by_group": "Score by group",
    "by_length": "Score by length",
}
"""Name in `FIGURES` -> title. Of the others optuna-dashboard has its own."""
JUDGED = ("confusion_matrix", "by_group", "by_length")
"""Those of one reading of the trial to take."""
AXIS = {"gridcolor": "rgba(138,143,152,0.25)", "automargin": True}
LAYOUT = {
    "height": 450,  # what optuna-dashboard's pages give a figure
    "margin": {"t": 70},
    # Above, where a report has it, it would lie over the title.
    "legend": {"orientation": "h", "x": 0, "yref": "container", "y": 0, "yanchor": "bottom"},
    "template": "none",
    # To be legible on its light pages and on its dark ones.
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": GREY},
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY},
    # The same at every update, which keeps what a reader has zoomed into.
    "uirevision": "hpo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """What is added to the pages of one study."""

    note: str = ""
    """Markdown."""
    trial_notes: Mapping[int, str] = field(default_factory=dict)
    """Trial -> Markdown."""
    figures: Mapping[str, str] = field(default_factory=dict)
    """Name -> plotly's JSON."""
    pictures: Mapping[int, Sequence[TrialPicture]] = field(default_factory=dict)
    """Trial -> its pictures."""
    material: ReportData | None = None
    """What pictures are drawn from; None where hpo has nothing to add."""


class Adding:
    """Adds to what pages are told of studies; made anew when something happened in the store or a leader left."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._made: dict[str, tuple[Seen, Additions]] = {}
        # Every open page asks for its study every few seconds, each in a thread of its own.
        self._lock = threading.Lock()
        self._drawing = threading.Lock()

    def to(self, page: dict[str, Any]) -> dict[str, Any]:
        """Return the page of a study with notes, where the user has none, figures and pictures added."""
        additions = self._of(page["name"])
        page["note"] = _unless_written(page["note"], additions.note)
        for trial in (*page["trials"], *page["best_trials"]):
            trial["note"] = _unless_written(trial["note"], additions.trial_notes.get(trial["number"], ""))
            trial["artifacts"] = [one.artifact for one in additions.pictures.get(trial["number"], ())]
        page["plotly_graph_objects"] += [
            {"id": f"hpo-{name}", "graph_object": drawn} for name, drawn in additions.figures.items()
        ]
        return page

    def picture(self, study: str, identifier: str) -> bytes | None:
        """Return a picture of a trial, as SVG; None where there is none of that name.

        Args:
            study: its name.
            identifier: of the picture, by which it is among its trial's artifacts.
        """
        additions = self._of(study)
        everything = (one for pictures in additions.pictures.values() for one in pictures)
        found = next((one for one in everything if one.identifier == identifier), None)
        if found is None or additions.material is None:
            return None
        with self._drawing:
            return found.drawn(additions.material)

    def _of(self, study: str) -> Additions:
        with self._lock:
            seen = self._seen(study)
            if self._made.get(study, (None,))[0] != seen:
                self._made[study] = (seen, self._anew(study))
            return self._made[study][1]

    def _seen(self, study: str) -> Seen:
        with self._database.read_transaction() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.event_id))).scalar()
            named = sa.select(StudyModel.study_id).where(StudyModel.study_name == study)
            study_id = connection.execute(named).scalar()
            lease = None if study_id is None else read_lease(StudyRows(study_id, connection))
        # That a leader was killed, or gives up its lease last of all, is no event.
        return newest, None if lease is None else leader_of(lease)

    def _anew(self, study: str) -> Additions:
        try:
            return additions_to(gathered(self._database, study))
        except HpoError as error:
            # Such as a study that hpo did not make: optuna-dashboard shows it all the same.
            return Additions(note=f"hpo has nothing to add: {error}")


def additions_to(material: ReportData) -> Additions:
    """Return what is added to the pages of a study."""
    return Additions(
        note=study_note(material),
        trial_notes=trial_notes(material),
        figures=_drawn(material),
        pictures=pictures_of(material),
        material=material,
    )


def _drawn(material: ReportData) -> dict[str, str]:
    drawn = {}
    for name, title in FIGURES_SHOWN.items():
        figure = FIGURES[name](material)
        if not isinstance(figure, str):
            if name in JUDGED and material.judged is not None:
                title += f"<br><sup>Of trial {material.judged.trial}, on {material.judged.source}.</sup>"
            figure.update_layout(LAYOUT, title={"text": title, "x": 0.02, "xanchor": "left"})
            figure.update_xaxes(AXIS).update_yaxes(AXIS)
            drawn[name] = str(figure.to_json())
    return drawn


def _unless_written(note: dict[str, Any], ours: str) -> dict[str, Any]:
    """Return the user's own note, which has a version, or else ours, over which the user's first may be written."""
    return note if note["version"] else {"version": 0, "body": ours}
