"""The rows of attempts, their evaluations and the study's log of events, as a search reads and writes them."""

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState
from sqlalchemy.engine import Connection

from hpo.messages import Action, Outcome, Report
from hpo.store import records, statements
from hpo.store.tables import attempts, clock, evaluations, events
from hpo.store.transactions import StudyTransactions


class AttemptStore(StudyTransactions):
    """Attempts at the trials of a study: begun, evaluated, ended."""

    _device_seconds: float | None = None
    """Of all attempts that ended; None until that was asked for."""

    def latest_attempt(self, trial: int) -> int:
        """Return the number of the newest attempt at `trial`; 0 if it was never begun."""
        newest = self._execute(statements.LATEST_ATTEMPT, of_study=self.study_id, of_trial=trial)
        return int(newest.scalar() or 0)

    def attempt_of_request(self, request: str) -> records.AttemptRecord | None:
        """Return the attempt that `request` was answered with; None if it is a new request."""
        asked = self._execute(statements.ATTEMPT_OF_REQUEST, of_study=self.study_id, of_request=request)
        return records.read_attempt(asked.mappings().first())

    def attempt(self, trial: int, attempt: int) -> records.AttemptRecord | None:
        """Return one attempt; None if there is no such attempt."""
        which = self._execute(statements.ATTEMPT, of_study=self.study_id, of_trial=trial, of_attempt=attempt)
        return records.read_attempt(which.mappings().first())

    def is_open(self, trial: int, attempt: int) -> bool:
        """Return whether `attempt` is the newest at `trial`, has not ended, and its trial is running for Optuna too.

        A trial that somebody ended or put back with Optuna's own tools is so by their word.
        """
        standing = self._execute(statements.STANDING, of_study=self.study_id, of_trial=trial)
        return standing.first() == (attempt, None, TrialState.RUNNING)

    def attempt_ends(self, trial: int) -> list[records.AttemptEnd]:
        """Return how every attempt at `trial` ended and how far it came, by number."""
        here = sa.and_(evaluations.c.study_id == attempts.c.study_id, evaluations.c.trial == attempts.c.trial)
        furthest = (
            sa.select(sa.func.max(evaluations.c.examples_seen))
            .where(here, evaluations.c.attempt == attempts.c.attempt)
            .scalar_subquery()
        )
        seen = sa.func.coalesce(furthest, 0).label("seen")
        columns = (attempts.c.attempt, attempts.c.worker, attempts.c.ending, seen)
        rows = sa.select(*columns).where(self._trial(attempts, trial)).order_by(attempts.c.attempt)
        return [records.AttemptEnd(**row) for row in self._execute(rows).mappings()]

    def begin_attempt(self, record: records.AttemptRecord, *, request: str, worker: str, device: str) -> None:
        """Record that `record.trial` is about to be trained."""
        self._insert(
            attempts, trial=record.trial, attempt=record.attempt, request=request, worker=worker, device=device,
            configuration=json.dumps(dict(record.configuration)), seed=record.seed,
            score_to_beat=record.score_to_beat, rows_at_once=record.micro_batch_size, confirms=record.confirms,
        )  # fmt: skip

    def end_attempt(self, outcome: Outcome, devices: float = 1.0) -> None:
        """Record how an attempt ended that took so many devices."""
        which = sa.and_(self._trial(attempts, outcome.trial), attempts.c.attempt == outcome.attempt)
        values: dict[str, Any] = {
            "ended_at": clock(),
            "ending": str(outcome.ending),
            "reason": outcome.reason,
            "seconds": outcome.seconds,
            "peak_memory_bytes": outcome.peak_memory_bytes,
            "best_rung": outcome.best.rung if outcome.best else None,
            "best_attempt": outcome.best.attempt if outcome.best else None,
            "resumed_examples": outcome.resumed_examples,
            "device_seconds": devices * max(0.0, outcome.seconds - outcome.resumed_seconds),
        }
        if outcome.micro_batch_size is not None:
            values["rows_at_once"] = outcome.micro_batch_size
        self._execute(sa.update(attempts).where(which).values(values))
        if self._device_seconds is not None:
            self._device_seconds += values["device_seconds"]

    def answered(self, trial: int, attempt: int, rung: int) -> Action | None:
        """Return what a report was answered with; None if it is a new report."""
        answer = self._execute(
            statements.ANSWER, of_study=self.study_id, of_trial=trial, of_attempt=attempt, of_rung=rung
        ).scalar()
        return None if answer is None else Action(answer)

    def add_evaluation(self, report: Report, action: Action) -> None:
        """Record one evaluation and what it was answered with."""
        self._insert(
            evaluations, trial=report.trial, attempt=report.attempt, rung=report.rung, is_full=report.full,
            step=report.step, epoch=report.epoch, examples_seen=report.examples_seen,
            learning_rate=report.learning_rate, train_loss=report.train_loss, score=report.validation.objective,
            train_score=report.train.objective if report.train else None,
            validation_scores=records.scores_to_json(report.validation),
            train_scores=records.scores_to_json(report.train) if report.train else None,
            reading=records.held_out_to_json(report.held_out) if report.held_out else None,
            action=str(action), seconds=report.seconds, peak_memory_bytes=report.peak_memory_bytes,
        )  # fmt: skip

    def best_report(self, trial: int) -> Report | None:
        """Return the best full evaluation of a trial that has ended, as it was reported; None if there is none."""
        last = attempts.c.attempt == self.latest_attempt(trial)
        best = sa.select(attempts.c.best_attempt, attempts.c.best_rung).where(self._trial(attempts, trial), last)
        found = self._execute(best).one()
        at = sa.and_(evaluations.c.attempt == found.best_attempt, evaluations.c.rung == found.best_rung)
        which = sa.and_(self._trial(evaluations, trial), at)
        row = self._execute(sa.select(evaluations).where(which)).mappings().first()
        return None if row is None else records.read_report(row)

    def reached(self) -> list[records.Reached]:
        """Return how far each attempt came, and what it took: what the cost of a later trial is told from."""
        newest = (
            sa.select(evaluations.c.trial, evaluations.c.attempt, sa.func.max(evaluations.c.rung).label("rung"))
            .where(evaluations.c.study_id == self.study_id)
            .group_by(evaluations.c.trial, evaluations.c.attempt)
            .subquery()
        )
        same = sa.and_(
            evaluations.c.study_id == self.study_id,
            *(evaluations.c[name] == newest.c[name] for name in ("trial", "attempt", "rung")),
        )
        of_attempt = sa.and_(
            attempts.c.study_id == self.study_id, *(attempts.c[name] == newest.c[name] for name in ("trial", "attempt"))
        )
        rows = sa.select(newest.c.trial, newest.c.rung, evaluations.c.seconds, attempts.c.configuration).select_from(
            newest.join(evaluations, same).join(attempts, of_attempt)
        )
        return [
            records.Reached(
                trial=row.trial, rung=row.rung, seconds=row.seconds, configuration=json.loads(row.configuration)
            )
            for row in self._execute(rows.order_by(newest.c.trial, newest.c.attempt))
        ]

    def micro_batch_sizes(self) -> list[records.AttemptRecord]:
        """Return the attempts in which memory did not suffice for whole batches."""
        which = sa.and_(attempts.c.study_id == self.study_id, attempts.c.rows_at_once.is_not(None))
        found = (records.read_attempt(row) for row in self._execute(sa.select(attempts).where(which)).mappings())
        return [record for record in found if record is not None]

    def device_seconds(self) -> float:
        """Return the seconds of devices that all attempts took that ended."""
        if self._device_seconds is None:
            self._device_seconds = device_seconds(self._open_connection(), self.study_id)
        return self._device_seconds

    def _forget(self) -> None:
        super()._forget()
        self._device_seconds = None

    # -- the log

    def add_event(self, kind: str, trial: int | None = None, attempt: int | None = None, **detail: Any) -> None:
        """Add a line to the study's log."""
        self._insert(events, kind=kind, trial=trial, attempt=attempt, detail=json.dumps(detail))

    def has_event(self, kind: str, trial: int) -> bool:
        """Return whether the log has a line of this kind on `trial`."""
        which = sa.and_(self._trial(events, trial), events.c.kind == kind)
        count = self._execute(sa.select(sa.func.count()).select_from(events).where(which)).scalar_one()
        return bool(count)

    def events_after(self, event_id: int, kinds: Collection[str]) -> Sequence[records.Event]:
        """Return the lines of these kinds that were added after the one of that number, in their order."""
        which = sa.and_(events.c.study_id == self.study_id, events.c.event_id > event_id, events.c.kind.in_(kinds))
        rows = self._execute(sa.select(events).where(which).order_by(events.c.event_id))
        return [
            records.Event(number=row.event_id, kind=row.kind, trial=row.trial, detail=json.loads(row.detail))
            for row in rows
        ]

    def newest_event(self) -> int:
        """Return the number of the newest line; 0 if there is none."""
        newest = sa.select(sa.func.max(events.c.event_id)).where(events.c.study_id == self.study_id)
        return int(self._execute(newest).scalar() or 0)


def device_seconds(connection: Connection, study_id: int) -> float:
    """Return the seconds of devices that all attempts of a study took that ended."""
    total = sa.select(sa.func.sum(attempts.c.device_seconds)).where(attempts.c.study_id == study_id)
    return float(connection.execute(total).scalar() or 0.0)
