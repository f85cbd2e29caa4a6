"""Event log of a study: what happened, in the order in which it was recorded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hpo.store.tables import STUDY, TRIAL, StudyRows, events

AUDIT_EVENT = "audited"
BASELINE_EVENT = "baseline"
TEST_EVENT = "test_read"
WARM_START_EVENT = "warm_start"

_OF_KINDS = sa.select(events).where(
    events.c.study_id == STUDY, events.c.kind.in_(sa.bindparam("kinds", expanding=True))
)
_AFTER = _OF_KINDS.where(events.c.event_id > sa.bindparam("of_event")).order_by(events.c.event_id)
_OF_TRIAL = _OF_KINDS.where(events.c.trial == TRIAL)
_OF_TRIALS = (
    sa.select(events)
    .where(events.c.study_id == STUDY, events.c.trial.in_(sa.bindparam("trials", expanding=True)))
    .where(events.c.kind != "stop_asked")
    .order_by(events.c.event_id)
)
_LAST = sa.select(events).where(events.c.study_id == STUDY).order_by(events.c.event_id.desc())
_NEWEST = sa.select(sa.func.max(events.c.event_id)).where(events.c.study_id == STUDY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event."""

    happened_at: float
    """Seconds since 1970, by the database's clock."""
    kind: str
    trial: int | None
    attempt: int | None
    detail: Mapping[str, Any]


class EventLog:
    """Events of one study, in a transaction."""

    def __init__(self, rows: StudyRows) -> None:
        self._rows = rows

    def add(self, kind: str, trial: int | None = None, attempt: int | None = None, **detail: Any) -> None:
        """Record an event."""
        self._rows.insert(events, kind=kind, trial=trial, attempt=attempt, detail=json.dumps(detail))

    def has(self, kind: str, trial: int) -> bool:
        """Return whether an event of this kind was recorded of `trial`."""
        return self._rows.execute(_OF_TRIAL, kinds=[kind], of_trial=trial).first() is not None

    def after(self, number: int, *kinds: str) -> dict[int, Event]:
        """Return number -> event of these kinds that were recorded after the one of that number, in their order."""
        return {row.event_id: _event(row) for row in self._rows.execute(_AFTER, of_event=number, kinds=kinds)}

    def all(self, *kinds: str) -> list[Event]:
        """Return the events of these kinds, in their order."""
        return list(self.after(0, *kinds).values())

    def last(self, count: int) -> list[Event]:
        """Return the last events, the newest last."""
        return [_event(row) for row in self._rows.execute(_LAST.limit(count))][::-1]

    def newest_of(self, trials: Sequence[int]) -> dict[int, Event | None]:
        """Return trial -> the newest event on it that is no wish of a user to stop it; None where there is none."""
        newest = {row.trial: _event(row) for row in self._rows.execute(_OF_TRIALS, trials=trials)}
        return {trial: newest.get(trial) for trial in trials}

    def newest(self) -> int:
        """Return the number of the newest event; 0 if there is none."""
        return int(self._rows.execute(_NEWEST).scalar() or 0)


def _event(row: sa.Row[Any]) -> Event:
    """Return a row of events as a value."""
    happened = {"happened_at": row.happened_at, "kind": row.kind, "trial": row.trial, "attempt": row.attempt}
    return Event(**happened, detail=json.loads(row.detail))
