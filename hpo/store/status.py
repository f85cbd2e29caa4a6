"""Status of a study: its leader, running and waiting trials, and recent events. Read-only."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.messages import Standing
from hpo.store.database import Database
from hpo.store.leases import LeaseRecord, read_lease
from hpo.store.optuna_adapter import UNFINISHED, TrialModel, TrialValueModel
from hpo.store.studies import opened_study
from hpo.store.study_store import METRIC_ATTRIBUTE
from hpo.store.tables import STUDY, Event, EventLog, StudyRows, attempts, clock, evaluations
from hpo.store.trials import DEVICE_SECONDS, OF_ATTEMPT

SHOWN_EVENTS = 10

_WAITING = (
    sa.select(TrialModel.number)
    .where(TrialModel.study_id == STUDY, UNFINISHED, TrialModel.state == TrialState.WAITING)
    .order_by(TrialModel.number)
)
_COUNTS = sa.select(TrialModel.state, sa.func.count()).where(TrialModel.study_id == STUDY).group_by(TrialModel.state)
_PAUSED = (
    sa.select(sa.func.count())
    .where(TrialModel.study_id == STUDY, UNFINISHED, TrialModel.state == TrialState.WAITING)
    .where(sa.exists().where(attempts.c.study_id == STUDY, attempts.c.trial == TrialModel.number))
)
_BEST = (
    sa.select(TrialValueModel.value, TrialModel.number)
    .join(TrialModel, TrialModel.trial_id == TrialValueModel.trial_id)
    .where(TrialModel.study_id == STUDY, TrialModel.state == TrialState.COMPLETE, TrialValueModel.value.is_not(None))
    .where(sa.exists().where(attempts.c.study_id == STUDY, attempts.c.trial == TrialModel.number))
    .order_by(TrialValueModel.value.desc(), TrialModel.number)
    .limit(1)
)
"""Best trial among those that hpo trained; of equal ones the earlier."""
_RUNNING = (
    sa.select(
        *(attempts.c[name] for name in ("trial", "attempt", "worker", "device")),
        attempts.c.started_at.label("begun_at"),
        *(evaluations.c[name] for name in ("rung", "score", "reported_at")),
    )
    .select_from(attempts)
    .join(TrialModel, sa.and_(TrialModel.study_id == STUDY, TrialModel.number == attempts.c.trial))
    .join(evaluations, OF_ATTEMPT, isouter=True)
    .where(attempts.c.study_id == STUDY, UNFINISHED, TrialModel.state == TrialState.RUNNING)
    .order_by(attempts.c.trial, attempts.c.attempt, evaluations.c.rung)
)
"""Attempts at the running trials, each with its evaluations; for each trial the newest last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that a worker was given; times are seconds since 1970 by the database's clock."""

    trial: int
    attempt: int
    worker: str
    device: str
    begun_at: float
    rung: int | None
    """Newest evaluation in this attempt; None if there is none yet."""
    score: float | None
    reported_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTrial:
    """A trial that waits to begin, or to resume."""

    trial: int
    last: str
    """Kind of its newest event, such as `paused`; empty if there is none."""
    reason: str
    """The reason in this event; empty if it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus:
    """Status of a study at one moment; times are seconds since 1970 by the database's clock."""

    name: str
    metric: str
    now: float
    lease: LeaseRecord | None
    """The newest lease, valid or not."""
    standing: Standing
    running: tuple[RunningTrial, ...]
    waiting: tuple[WaitingTrial, ...]
    device_seconds: float
    """Seconds of training and evaluation in all ended attempts, summed over all devices."""
    run_begun: Event | None
    """The start of the newest run: its detail has its `deadline`, and its `workers`."""
    run_ended: Event | None
    """Its end; None while it runs, or if its process died."""
    events: tuple[Event, ...]
    """The last events, the newest last."""


def read_status(database: Database, name: str | None = None) -> StudyStatus:
    """Return the status of a study; raises as `opened_study` does."""
    with opened_study(database, name) as (name, rows):
        log = EventLog(rows)
        runs = log.all("run_begun", "run_ended")[-2:]
        ended = runs.pop() if runs and runs[-1].kind == "run_ended" else None
        return StudyStatus(
            name=name,
            metric=database.storage.get_study_user_attrs(rows.study_id).get(METRIC_ATTRIBUTE, "score"),
            now=rows.execute(sa.select(clock())).scalar_one(),
            lease=read_lease(rows),
            standing=_standing(rows),
            running=tuple({row["trial"]: RunningTrial(**row) for row in rows.execute(_RUNNING).mappings()}.values()),
            waiting=_waiting(log, rows.execute(_WAITING).scalars().all()),
            device_seconds=float(rows.execute(DEVICE_SECONDS).scalar() or 0.0),
            run_begun=runs[-1] if runs else None,
            run_ended=ended,
            events=tuple(log.last(SHOWN_EVENTS)),
        )


def _standing(rows: StudyRows) -> Standing:
    counts: dict[TrialState, int] = dict(tuple(row) for row in rows.execute(_COUNTS))
    best = rows.execute(_BEST).first()
    return Standing(
        completed=counts.get(TrialState.COMPLETE, 0),
        pruned=counts.get(TrialState.PRUNED, 0),
        failed=counts.get(TrialState.FAIL, 0),
        paused=rows.execute(_PAUSED).scalar_one(),
        best=None if best is None else (best.value, best.number),
    )


def _waiting(log: EventLog, trials: Sequence[int]) -> tuple[WaitingTrial, ...]:
    found = []
    for trial, event in log.newest_of(trials).items():
        detail = event.detail if event else {}
        reason = str(detail.get("reason") or detail.get("why") or "")
        found.append(WaitingTrial(trial=trial, last=event.kind if event else "", reason=reason))
    return tuple(found)
