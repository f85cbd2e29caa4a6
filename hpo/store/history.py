"""History of a study: every evaluation of every trial, in order. Writes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from hpo.store.database import Database
from hpo.store.studies import opened_study
from hpo.store.tables import STUDY, attempts, evaluations


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
    """The score on validation."""
    seconds: float
    """Training and evaluation time of the trial so far."""
    reported_at: float
    """Seconds since 1970, by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHistory:
    """How a study went, from its first attempt on."""

    begun_at: float | None
    """Seconds since 1970, by the database's clock; None where no trial was begun."""
    evaluations: tuple[Evaluation, ...]
    """By trial and rung; of a trial that was begun anew, the evaluations that its newest attempt stands on."""
    completed: tuple[FrozenTrial, ...]
    """Completed trials as Optuna has them: what was proposed, from which distributions."""


_BEGUN_AT = sa.select(sa.func.min(attempts.c.started_at)).where(attempts.c.study_id == STUDY)
_EVALUATIONS = (
    sa.select(*(evaluations.c["is_full" if name == "full" else name].label(name) for name in Evaluation.__slots__))
    .where(evaluations.c.study_id == STUDY)
    .order_by(evaluations.c.trial, evaluations.c.attempt, evaluations.c.rung)
)


def read_history(database: Database, name: str | None = None) -> StudyHistory:
    """Return how a study went; raises as `opened_study` does."""
    with opened_study(database, name) as (_, rows):
        completed = database.storage.get_all_trials(rows.study_id, states=(TrialState.COMPLETE,))
        return StudyHistory(
            begun_at=rows.execute(_BEGUN_AT).scalar(),
            evaluations=_standing(Evaluation(**row) for row in rows.execute(_EVALUATIONS).mappings()),
            completed=tuple(trial for trial in completed if trial.values),
        )


def _standing(evaluations: Iterable[Evaluation]) -> tuple[Evaluation, ...]:
    """Return evaluations, by trial, attempt and rung, without those that a later attempt replaced.

    An attempt that resumed from a checkpoint reports again what came after that, and one that began anew everything.
    """
    kept: list[Evaluation] = []
    for one in evaluations:
        while kept and kept[-1].trial == one.trial and kept[-1].rung >= one.rung:
            kept.pop()
        kept.append(one)
    return tuple(kept)
