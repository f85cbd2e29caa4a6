"""The standing of a study now: who leads it, what trains, what waits and why, what happened last. Writes nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.engine import Connection, RowMapping

from hpo.messages import Standing
from hpo.store.attempts import device_seconds
from hpo.store.engine import Database
from hpo.store.listing import chosen_study
from hpo.store.optuna_adapter import TrialModel, TrialValueModel
from hpo.store.records import LeaseRecord
from hpo.store.statements import UNFINISHED
from hpo.store.studies import read_lease
from hpo.store.tables import attempts, clock, evaluations, events

SHOWN_EVENTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that a worker was given; times are seconds since 1970 by the database's clock."""

    trial: int
    attempt: int
    worker: str
    device: str
    begun_at: float
    rung: int | None
    """Of its newest evaluation in this attempt; None where there was none yet."""
    score: float | None
    reported_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTrial:
    """A trial that waits to begin, or to go on."""

    trial: int
    last: str
    """Kind of the newest event on it, such as `paused`; empty where nothing has happened to it."""
    reason: str
    """What that event gives as a reason, in words or one word; empty where it gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """A line of a study's log."""

    happened_at: float
    kind: str
    trial: int | None
    attempt: int | None
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyState:
    """How a study stands at one moment; times are seconds since 1970 by the database's clock."""

    name: str
    metric: str
    now: float
    lease: LeaseRecord | None
    """The newest, in force or not."""
    standing: Standing
    running: tuple[RunningTrial, ...]
    waiting: tuple[WaitingTrial, ...]
    device_seconds: float
    """Of training and evaluation in all attempts that are over, summed over all devices."""
    run_begun: LoggedEvent | None
    """The beginning of the newest run: its detail has its `deadline`, and its `workers`."""
    run_ended: LoggedEvent | None
    """Its end; None while it goes on, or where it had none: its process died."""
    events: tuple[LoggedEvent, ...]
    """The last ones, the newest last."""


def read_state(database: Database, name: str | None = None) -> StudyState:
    """Return how a study stands now.

    Args:
        database: the store.
        name: the study; None for the only one of the store.

    Raises:
        ConfigurationError: no such study, or several where none was named.
        NoResultError: there is no study yet.
    """
    with database.reading() as connection:
        study_id, name = chosen_study(database, name)
        running, waiting = (_numbers(connection, study_id, state) for state in (TrialState.RUNNING, TrialState.WAITING))
        begun, ended = _newest_run(connection, study_id)
        return StudyState(
            name=name,
            metric=database.storage.get_study_user_attrs(study_id).get("hpo:metric", "score"),
            now=connection.execute(sa.select(clock())).scalar_one(),
            lease=read_lease(connection, study_id),
            standing=_standing(connection, study_id),
            running=_running(connection, study_id, running),
            waiting=_waiting(connection, study_id, waiting),
            device_seconds=device_seconds(connection, study_id),
            run_begun=begun,
            run_ended=ended,
            events=tuple(reversed(_events(connection, events.c.study_id == study_id, SHOWN_EVENTS))),
        )


def _numbers(connection: Connection, study_id: int, state: TrialState) -> list[int]:
    which = sa.and_(TrialModel.study_id == study_id, UNFINISHED, TrialModel.state == state)
    return list(connection.execute(sa.select(TrialModel.number).where(which).order_by(TrialModel.number)).scalars())


def _standing(connection: Connection, study_id: int) -> Standing:
    """Count, and find the best of those that hpo trained to their end; of equals the earlier."""
    here, value = TrialModel.study_id == study_id, TrialValueModel.value
    counted = sa.select(TrialModel.state, sa.func.count()).where(here).group_by(TrialModel.state)
    states: dict[TrialState, int] = dict(connection.execute(counted).all())
    attempted = sa.exists().where(attempts.c.study_id == study_id, attempts.c.trial == TrialModel.number)
    best = (
        sa.select(value, TrialModel.number)
        .join(TrialModel, TrialModel.trial_id == TrialValueModel.trial_id)
        .where(here, TrialModel.state == TrialState.COMPLETE, attempted, value.is_not(None))
        .order_by(value.desc(), TrialModel.number)
        .limit(1)
    )
    row = connection.execute(best).first()
    return Standing(
        completed=states.get(TrialState.COMPLETE, 0),
        pruned=states.get(TrialState.PRUNED, 0),
        failed=states.get(TrialState.FAIL, 0),
        best=None if row is None else (row[0], row[1]),
    )


def _running(connection: Connection, study_id: int, trials: Sequence[int]) -> tuple[RunningTrial, ...]:
    which = sa.and_(attempts.c.study_id == study_id, attempts.c.trial.in_(trials))
    begun = connection.execute(sa.select(attempts).where(which).order_by(attempts.c.attempt)).mappings()
    newest = {row["trial"]: row for row in begun}
    which = sa.and_(evaluations.c.study_id == study_id, evaluations.c.trial.in_(trials))
    columns = [evaluations.c[name] for name in ("trial", "attempt", "rung", "score", "reported_at")]
    told = connection.execute(sa.select(*columns).where(which).order_by(evaluations.c.rung)).mappings()
    reported = {(row["trial"], row["attempt"]): row for row in told}
    return tuple(
        _running_trial(newest[trial], reported.get((trial, newest[trial]["attempt"])))
        for trial in trials
        if trial in newest
    )


def _running_trial(attempt: RowMapping, report: RowMapping | None) -> RunningTrial:
    of_attempt = {name: attempt[name] for name in ("trial", "attempt", "worker", "device")}
    of_report: dict[str, Any] = {name: report[name] if report else None for name in ("rung", "score", "reported_at")}
    return RunningTrial(begun_at=attempt["started_at"], **of_attempt, **of_report)


def _waiting(connection: Connection, study_id: int, trials: Sequence[int]) -> tuple[WaitingTrial, ...]:
    if not trials:
        return ()
    which = sa.and_(events.c.study_id == study_id, events.c.trial.in_(trials), events.c.kind != "stop_asked")
    rows = connection.execute(sa.select(events).where(which).order_by(events.c.event_id)).mappings()
    last = {row["trial"]: (row["kind"], json.loads(row["detail"])) for row in rows}
    return tuple(
        WaitingTrial(trial=trial, last=kind, reason=str(detail.get("reason") or detail.get("why") or ""))
        for trial, (kind, detail) in ((trial, last.get(trial, ("", {}))) for trial in trials)
    )


def _newest_run(connection: Connection, study_id: int) -> tuple[LoggedEvent | None, LoggedEvent | None]:
    """Return how the newest run began, and how it ended if that came after."""
    which = sa.and_(events.c.study_id == study_id, events.c.kind.in_(("run_begun", "run_ended")))
    newest = _events(connection, which, 2)
    if newest and newest[0].kind == "run_begun":
        return newest[0], None
    ended, begun = (*newest, None, None)[:2]
    return begun, ended


def _events(connection: Connection, which: sa.ColumnElement[bool], most: int) -> list[LoggedEvent]:
    """Return the newest events first."""
    rows = connection.execute(sa.select(events).where(which).order_by(events.c.event_id.desc()).limit(most)).mappings()
    names = ("happened_at", "kind", "trial", "attempt")
    return [LoggedEvent(**{name: row[name] for name in names}, detail=json.loads(row["detail"])) for row in rows]
