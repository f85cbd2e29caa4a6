"""The course of a study: every evaluation of every trial, when trials ended and where. Writes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import Connection

from hpo.store.engine import Database
from hpo.store.listing import chosen_study
from hpo.store.tables import attempts, evaluations


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of a trial in training."""

    trial: int
    attempt: int
    rung: int
    """Examples seen over those of the study's longest trial, in per mille. With folds, the share of folds scored, and
    1000 for their mean."""
    full: bool
    """Whether all of validation was scored."""
    epoch: float
    examples_seen: int
    learning_rate: float
    """The rate of the last step, schedule applied."""
    train_loss: float
    """Nats per example."""
    score: float
    """The objective on validation."""
    seconds: float
    """Training and evaluation time of the trial so far."""
    reported_at: float
    """Seconds since 1970, by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAttempt:
    """The newest attempt at a trial."""

    trial: int
    attempt: int
    worker: str
    device: str
    ended_at: float | None
    """Seconds since 1970, by the database's clock; None while it is trained, or where its leader died with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHistory:
    """How a study went, from its first attempt on."""

    begun_at: float | None
    """Seconds since 1970, by the database's clock; None where no trial was begun."""
    evaluations: tuple[Evaluation, ...]
    """By trial and rung; of a trial that was begun anew, what the newest attempt stands on."""
    last_attempts: tuple[LastAttempt, ...]
    """By trial."""
    completed: tuple[FrozenTrial, ...]
    """Completed trials as Optuna has them: what was proposed, from which distributions."""


def read_history(database: Database, name: str | None = None) -> StudyHistory:
    """Return how a study went.

    Args:
        database: the store.
        name: the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, or several where none was named.
        NoResultError: there is no study yet.
    """
    with database.reading() as connection:
        study_id, name = chosen_study(database, name)
        begun = sa.select(sa.func.min(attempts.c.started_at)).where(attempts.c.study_id == study_id)
        completed = database.storage.get_all_trials(study_id, states=(TrialState.COMPLETE,))
        return StudyHistory(
            begun_at=connection.execute(begun).scalar(),
            evaluations=tuple(as_trained(read_evaluations(connection, study_id))),
            last_attempts=_last_attempts(connection, study_id),
            completed=tuple(trial for trial in completed if trial.values),
        )


def as_trained(told: Iterable[Evaluation]) -> list[Evaluation]:
    """Return evaluations without those that a later attempt took the place of.

    An attempt that went on from a checkpoint reports again what came after that, and one that began anew everything.

    Args:
        told: by trial, attempt and rung.
    """
    kept: list[Evaluation] = []
    for one in told:
        while kept and kept[-1].trial == one.trial and kept[-1].rung >= one.rung:
            kept.pop()
        kept.append(one)
    return kept


def read_evaluations(connection: Connection, study_id: int) -> list[Evaluation]:
    """Return all evaluations of a study, by trial, attempt and rung."""
    names = [name for name in Evaluation.__slots__ if name != "full"]
    columns = [*(evaluations.c[name] for name in names), evaluations.c.is_full.label("full")]
    in_order = (evaluations.c.trial, evaluations.c.attempt, evaluations.c.rung)
    rows = sa.select(*columns).where(evaluations.c.study_id == study_id).order_by(*in_order)
    return [Evaluation(**row) for row in connection.execute(rows).mappings()]


def _last_attempts(connection: Connection, study_id: int) -> tuple[LastAttempt, ...]:
    columns = [attempts.c[name] for name in LastAttempt.__slots__]
    rows = sa.select(*columns).where(attempts.c.study_id == study_id).order_by(attempts.c.trial, attempts.c.attempt)
    newest = {row["trial"]: row for row in connection.execute(rows).mappings()}
    return tuple(LastAttempt(**row) for row in newest.values())
