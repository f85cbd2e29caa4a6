"""Content of a store after fault injection, read without hpo's own code: by Optuna and by plain SQL."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy as sa
from chaos_material import Figure
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hpo.store.database import sqlite_path

Row = dict[str, Any]
Tables = Mapping[str, list[Row]]


@dataclass(frozen=True, slots=True)
class Stored:
    """The one study of a store."""

    trials: list[FrozenTrial]
    tables: Tables

    @property
    def results(self) -> dict[int, Any]:
        """Of each trial what was tried, its score, and all scores and losses of its evaluations."""
        return {trial.number: (trial.params, trial.value, self._evaluations(trial.number)) for trial in self.trials}

    def _evaluations(self, trial: int) -> list[tuple[Any, ...]]:
        columns = ("rung", "step", "learning_rate", "train_loss", "validation_scores", "train_scores")
        rows = [row for row in self.tables["hpo_evaluations"] if row["trial"] == trial]
        return sorted(tuple(row[column] for column in columns) for row in rows)

    def events(self, kind: str) -> list[Row]:
        """The lines of this kind in the study's log."""
        return [row for row in self.tables["hpo_events"] if row["kind"] == kind]


def stored(url: str) -> Stored:
    """Read all of a store with one study."""
    storage = optuna.storages.RDBStorage(url)
    (study,) = storage.get_all_studies()
    return Stored(storage.get_all_trials(study._study_id), tables_of(url))


def tables_of(url: str) -> Tables:
    """Return every row of every table, in an order that does not change."""
    engine = sa.create_engine(url, poolclass=NullPool)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        rows = {table.name: connection.execute(sa.select(table)).mappings().all() for table in metadata.sorted_tables}
    return {name: sorted(map(dict, of_table), key=repr) for name, of_table in rows.items()}


def completed(url: str) -> int:
    """Return how many trials a store has that were completed; 0 where it does not answer."""
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return 0
    engine = sa.create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM trials WHERE state = 'COMPLETE'")).scalar_one())
    except SQLAlchemyError:
        return 0


def all_once(found: Stored, trials: int, *, attempts: int = 1) -> list[Figure]:
    """Return whether each of so many trials was completed, numbered and evaluated once, in at most so many attempts."""
    states = Counter(trial.state.name for trial in found.trials)
    rungs = Counter((row["trial"], row["rung"]) for row in found.tables["hpo_evaluations"])
    expected = {(trial.number, rung) for trial in found.trials for rung in trial.intermediate_values}
    most = max(Counter(row["trial"] for row in found.tables["hpo_attempts"]).values())
    numbers = [trial.number for trial in found.trials]
    return [
        figure("trials", f"{dict(states)}", states == {"COMPLETE": trials}),
        figure("their numbers", f"0 to {numbers[-1]}", numbers == list(range(trials))),
        figure(
            "evaluations",
            f"{rungs.total()}, of {len(expected)} rungs",
            rungs.keys() == expected and (attempts > 1 or rungs.total() == len(expected)),
        ),
        figure("most attempts at a trial", str(most), most <= attempts),
    ]


def figure(name: str, measured: str, good: bool) -> Figure:
    """Return a figure."""
    return Figure(name=name, measured=measured, good=good)
