"""Notebook access to a study: trials, evaluations and verdict as data frames, figures by name.

study = load_study("sqlite:///hpo.db")
study.trials.sort_values("score")
study.figure("learning_curves")
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpo.config.optional_packages import refuse_missing
from hpo.errors import ConfigurationError, NoResultError, nearest
from hpo.report.figures import FIGURES
from hpo.report.report_data import ReportData, read_report_data
from hpo.store.database import open_database
from hpo.store.results import Evaluation, StudyResults, TrialResult
from hpo.verdict.findings import verdict_to_plain

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

ABOUT_TRIAL = (
    "number", "state", "score", "train_score", "best_epoch", "rung", "seconds", "seed", "proposed_by", "reason",
)  # fmt: skip
ABOUT_COMPARISON = (
    "trial", "against", "against_trial", "difference", "low", "high", "decision", "take", "reason",
)  # fmt: skip
ABOUT_CONFIRMED = ("name", "trial", "score", "low", "high", "scores", "search_score", "seconds", "recommended")


class Study:
    """Snapshot of a study at the time of reading."""

    def __init__(self, data: ReportData) -> None:
        self.data = data

    @property
    def results(self) -> StudyResults:
        """Configuration and trials of the study, as values."""
        return self.data.results

    @property
    def trials(self) -> "DataFrame":
        """One row per trial: its ending, score, `validation_...` at its best evaluation, and hyperparameters.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        names = list(dict.fromkeys(name for trial in self.results.trials for name in trial.configuration))
        return _frame((_of_trial(trial) for trial in self.results.trials), (*ABOUT_TRIAL, *names))

    @property
    def evaluations(self) -> "DataFrame":
        """One row per evaluation, by trial and rung.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        return _frame(map(asdict, self.data.history.evaluations), Evaluation.__slots__)

    @property
    def verdict(self) -> "DataFrame":
        """One row per comparison of the verdict, with the decision and the trial to take; empty without a verdict.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        rows: list[dict[str, Any]] = []
        if self.data.verdict is not None:
            verdict = verdict_to_plain(self.data.verdict)
            rows = [one | {name: verdict[name] for name in ("take", "reason")} for one in verdict["comparisons"]]
        return _frame(rows, ABOUT_COMPARISON)

    @property
    def confirmed(self) -> "DataFrame":
        """One row per confirmed configuration, from best to worst, then one per baseline; empty without a verdict.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        rows: list[dict[str, Any]] = []
        if self.data.verdict is not None:
            verdict = verdict_to_plain(self.data.verdict)
            rows += [{"name": f"trial {one['trial']}", **one} for one in verdict["confirmed"]] + verdict["baselines"]
            rows = [one | {"recommended": one.get("trial") == verdict["take"]} for one in rows]
        return _frame(rows, ABOUT_CONFIRMED)

    def figure(self, name: str) -> "Figure":
        """Return a figure of the report.

        Raises:
            ConfigurationError: there is no figure of that name, or plotly is not installed.
            NoResultError: the study has no data for the figure.
        """
        if name not in FIGURES:
            raise ConfigurationError(f"There is no figure {name!r}. {nearest(name, FIGURES)}")
        refuse_missing("plotly", "A figure")
        drawn = FIGURES[name](self.data)
        if isinstance(drawn, str):
            raise NoResultError(drawn)
        caution = drawn.layout.title.text
        title = name.replace("_", " ")
        return drawn.update_layout(title={"text": f"{title}. {caution}" if caution else title}, margin={"t": 80})


def load_study(url: str, name: str | None = None) -> Study:
    """Read a study from the store at `url`.

    Args:
        url: path of a SQLite file, or a SQLAlchemy URL.
        name: name of the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, or several if none was named.
        NoResultError: there is no study yet.
        StoreError: the store does not exist, cannot be read, or has a newer version.
    """
    with closing(open_database(url, must_exist=True)) as database:
        return Study(read_report_data(database, name))


def _frame(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> "DataFrame":
    """Return rows as a data frame that has `columns` first, even if there is no row."""
    refuse_missing("pandas", "A frame")
    from pandas import DataFrame

    listed = list(rows)
    names = dict.fromkeys((*columns, *(name for row in listed for name in row)))
    return DataFrame(listed, columns=list(names))


def _of_trial(trial: TrialResult) -> dict[str, Any]:
    scores = trial.validation.values if trial.validation else {}
    validation = {f"validation_{name}": value for name, value in scores.items()}
    return dict(trial.trained_with) | {name: getattr(trial, name) for name in ABOUT_TRIAL} | validation
