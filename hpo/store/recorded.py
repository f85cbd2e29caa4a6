"""Learning curves that a study's trials left behind: what each was trained on, scored and cost."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from hpo.messages import Ending
from hpo.store.engine import Database
from hpo.store.history import as_trained, read_evaluations
from hpo.store.tables import attempts, studies

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
        curves: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
        for one in as_trained(read_evaluations(connection, study_id)):
            curves[one.trial].append((one.rung, one.score, one.seconds))
        rows = sa.select(attempts).where(attempts.c.study_id == study_id).order_by(attempts.c.trial, attempts.c.attempt)
        newest = {row["trial"]: row for row in connection.execute(rows).mappings()}
    trials = (_trial(row, curves[trial]) for trial, row in newest.items() if row["ending"] in OVER)
    return RecordedStudy(space=json.loads(space), trials=tuple(trials))


def _trial(attempt: RowMapping, curve: Sequence[tuple[int, float, float]]) -> RecordedTrial:
    return RecordedTrial(
        configuration=json.loads(attempt["configuration"]),
        ending=Ending(attempt["ending"]),
        seconds=max([attempt["seconds"], *(seconds for _, _, seconds in curve[-1:])]),
        evaluations=tuple(curve),
    )
