"""Reads the learning curves that a study's trials left behind: what each was trained on, scored and cost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from hpo.messages import Ending
from hpo.store.engine import Database
from hpo.store.tables import attempts, evaluations, studies

OVER = (Ending.COMPLETED, Ending.PRUNED, Ending.DIVERGED, Ending.INFEASIBLE)
"""Endings that say something of the configuration; an error or a pause does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTrial:
    """A trial that is over."""

    configuration: Mapping[str, Any]
    """Its hyperparameters, with the real learning rate."""
    ending: Ending
    seconds: float
    """Training and evaluation time."""
    evaluations: tuple[tuple[int, float, float], ...]
    """(rung, score, seconds of the trial so far), rising in rung and in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStudy:
    """The trials of a study that are over, by number, and the space they were proposed from."""

    space: Mapping[str, Any]
    trials: tuple[RecordedTrial, ...]


def read_recorded(database: Database, study: str) -> RecordedStudy:
    """Return what the trials of `study`, which hpo made, have shown; read in one transaction."""
    with database.reading() as connection:
        study_id = database.storage.get_study_id_from_name(study)
        space = connection.execute(sa.select(studies.c.space).where(studies.c.study_id == study_id)).scalar_one()
        evaluated = _evaluations(connection, study_id)
        newest = {
            row["trial"]: row
            for row in connection.execute(
                sa.select(attempts)
                .where(attempts.c.study_id == study_id)
                .order_by(attempts.c.trial, attempts.c.attempt)
            ).mappings()
        }
    trials = (_trial(row, evaluated.get(trial, {})) for trial, row in newest.items() if row["ending"] in OVER)
    return RecordedStudy(space=json.loads(space), trials=tuple(trials))


def _evaluations(connection: Connection, study_id: int) -> dict[int, dict[int, tuple[float, float]]]:
    """Return trial -> rung -> (score, seconds); where several attempts came to a rung, of the newest."""
    columns = (evaluations.c.trial, evaluations.c.rung, evaluations.c.score, evaluations.c.seconds)
    rows = sa.select(*columns).where(evaluations.c.study_id == study_id).order_by(evaluations.c.attempt)
    found: dict[int, dict[int, tuple[float, float]]] = {}
    for row in connection.execute(rows):
        found.setdefault(row.trial, {})[row.rung] = (row.score, row.seconds)
    return found


def _trial(attempt: RowMapping, evaluated: Mapping[int, tuple[float, float]]) -> RecordedTrial:
    rising: list[tuple[int, float, float]] = []
    for rung, (score, seconds) in sorted(evaluated.items()):
        # An attempt that began anew may have been given up before it came as far as the one before it.
        if seconds > (rising[-1][2] if rising else 0.0):
            rising.append((rung, score, seconds))
    return RecordedTrial(
        configuration=json.loads(attempt["configuration"]),
        ending=Ending(attempt["ending"]),
        seconds=max(attempt["seconds"], rising[-1][2] if rising else 0.0),
        evaluations=tuple(rising),
    )
