"""Our tables next to Optuna's, and statements about the rows of one study; its event log.

Times are seconds since 1970 in UTC by the database's clock. No foreign key points into Optuna's tables: a lock of ours
must never wait for one of theirs, and deleting a study with Optuna's own tools must succeed. `hpo_studies.uid`
distinguishes a study from a later one with the same number.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class clock(FunctionElement[float]):  # noqa: N801 (it is an SQL function)
    """The database's own clock: seconds since 1970 in UTC, whatever the time zones of server and session are."""

    type = sa.Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


metadata = sa.MetaData()
# SQLite numbers rows by itself only in a column that it knows as INTEGER.
RowNumber = sa.BigInteger().with_variant(sa.Integer, "sqlite")

UNFINISHED = sa.text("state IN ('RUNNING', 'WAITING')")

studies = sa.Table(
    "hpo_studies",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(512)),  # as Optuna has it, for the leaderboard
    sa.Column("uid", sa.String(32), nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),  # JSON: the whole study file, defaults included, no password
    sa.Column("space", sa.Text, nullable=False),  # JSON: the parameters
    sa.Column("data_fingerprint", sa.String(64), nullable=False),
    sa.Column("versions", sa.Text, nullable=False),  # JSON: package -> version
    sa.Column("measurements", sa.Text),  # JSON: what was measured to choose precision and threads
    sa.Column("created_at", sa.Double, nullable=False, default=clock()),
)

leases = sa.Table(
    "hpo_leases",
    metadata,
    sa.Column("study_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("fence", RowNumber, nullable=False),  # increases with each leader; methods of an older one are refused
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Double, nullable=False),  # seconds since its machine started: pids are reused
    sa.Column("machine", sa.String(128)),  # machine and its boot, and the namespace of process numbers
    sa.Column("acquired_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

trials = sa.Table(
    "hpo_trials",  # as in Optuna, for the leaderboard: a view on its tables would keep it from changing them
    metadata,
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("score", sa.Double),
    sa.PrimaryKeyConstraint("study_id", "trial"),
    sa.Index("hpo_trials_open", "study_id", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
)

attempts = sa.Table(
    "hpo_attempts",
    metadata,
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("worker", sa.String(128), nullable=False),
    sa.Column("device", sa.String(64), nullable=False),
    sa.Column("configuration", sa.Text, nullable=False),  # JSON: the hyperparameters trained, real learning rate
    sa.Column("seed", RowNumber, nullable=False),
    sa.Column("score_to_beat", sa.Double),
    sa.Column("started_at", sa.Double, nullable=False, default=clock()),
    sa.Column("ended_at", sa.Double),
    sa.Column("ending", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("seconds", sa.Double),
    sa.Column("peak_memory_bytes", sa.BigInteger),
    sa.Column("best_rung", sa.Integer),
    sa.Column("best_attempt", sa.Integer),  # the earlier one from whose checkpoint this one resumed
    sa.Column("rows_at_once", sa.Integer),  # micro-batch size, if memory did not suffice for whole batches
    sa.Column("resumed_examples", sa.BigInteger),  # examples seen at the checkpoint from which it resumed
    sa.Column("device_seconds", sa.Double),  # of this attempt alone, times the devices of a trial
    sa.Column("confirms", sa.Integer),  # trial of the confirmed study that this run represents
    sa.PrimaryKeyConstraint("study_id", "trial", "attempt"),
    sa.UniqueConstraint("study_id", "request"),
)

evaluations = sa.Table(
    "hpo_evaluations",
    metadata,
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("trial", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("rung", sa.Integer, nullable=False),  # per mille of the study's longest trial
    sa.Column("is_full", sa.Boolean, nullable=False),  # all of validation, or the part scored at rungs
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Double, nullable=False),
    sa.Column("examples_seen", sa.BigInteger, nullable=False),
    sa.Column("learning_rate", sa.Double, nullable=False),
    sa.Column("train_loss", sa.Double, nullable=False),
    sa.Column("score", sa.Double, nullable=False),  # the score on validation
    sa.Column("train_score", sa.Double),  # the score on a sample of the training rows
    sa.Column("validation_scores", sa.Text, nullable=False),  # JSON
    sa.Column("train_scores", sa.Text),  # JSON
    sa.Column("reading", sa.Text),  # JSON: held-out evaluation of a confirmation run
    sa.Column("action", sa.String(16), nullable=False),  # what the coordinator answered
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("peak_memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("reported_at", sa.Double, nullable=False, default=clock()),
    sa.PrimaryKeyConstraint("study_id", "trial", "attempt", "rung"),
)

events = sa.Table(
    "hpo_events",
    metadata,
    sa.Column("event_id", RowNumber, primary_key=True, autoincrement=True),
    sa.Column("study_id", sa.Integer, nullable=False),
    sa.Column("happened_at", sa.Double, nullable=False, default=clock()),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("attempt", sa.Integer),
    sa.Column("detail", sa.Text, nullable=False),  # JSON
    sa.Index("hpo_events_by_kind", "study_id", "kind", "event_id"),
)

OPTUNA_INDEXES = (
    "CREATE INDEX IF NOT EXISTS hpo_trials_by_number ON trials (study_id, number)",
    "CREATE INDEX IF NOT EXISTS hpo_trials_by_state ON trials (study_id, state)",
)
"""Indexes on Optuna's table of trials."""
LEADERBOARD = """
CREATE VIEW hpo_leaderboard AS
SELECT hpo_studies.name AS study, hpo_trials.trial AS trial, hpo_trials.state AS state, hpo_trials.score AS score,
       best.train_score AS train_score, best.epoch AS best_epoch, last.attempt AS attempts, last.seconds AS seconds,
       last.reason AS reason, last.configuration AS configuration
FROM hpo_trials
JOIN hpo_studies ON hpo_studies.study_id = hpo_trials.study_id
LEFT JOIN hpo_attempts AS last
  ON last.study_id = hpo_trials.study_id AND last.trial = hpo_trials.trial
  AND last.attempt = (SELECT max(attempt) FROM hpo_attempts
                      WHERE study_id = hpo_trials.study_id AND trial = hpo_trials.trial)
LEFT JOIN hpo_evaluations AS best
  ON best.study_id = last.study_id AND best.trial = last.trial AND best.attempt = last.best_attempt
  AND best.rung = last.best_rung
ORDER BY hpo_studies.name, CASE WHEN hpo_trials.state = 'COMPLETE' THEN 0 ELSE 1 END, hpo_trials.score DESC
"""
"""The view for plain SQL, on our tables only, because one on Optuna's would keep it from changing them."""

# Parameters for the subject of a statement; their names differ from those of columns, which an UPDATE would take for
# new values.
STUDY = sa.bindparam("of_study", type_=sa.Integer)
TRIAL = sa.bindparam("of_trial", type_=sa.Integer)
TO_TRIAL = sa.bindparam("to_trial", type_=sa.Integer)
ATTEMPT = sa.bindparam("of_attempt", type_=sa.Integer)


@dataclass(slots=True)
class StudyRows:
    """The rows of one study.

    Runs statements that are built once, with parameters, because building one in SQLAlchemy takes several times as
    long.
    """

    study_id: int
    connection: Connection | None = None
    """In a transaction; None outside of one."""

    @property
    def open_connection(self) -> Connection:
        """The connection of the transaction."""
        assert self.connection is not None, "the rows of a study are read and written inside a transaction"
        return self.connection

    def execute(self, statement: sa.Executable, **parameters: Any) -> sa.CursorResult[Any]:
        """Run a statement that takes `STUDY`, and these parameters."""
        return self.open_connection.execute(statement, {"of_study": self.study_id, **parameters})

    def insert(self, table: sa.Table, **values: Any) -> None:
        """Add a row to one of our tables."""
        self.open_connection.execute(sa.insert(table), {"study_id": self.study_id, **values})


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
        """Return true if an event of this kind was recorded of `trial`."""
        return self._rows.execute(_OF_TRIAL, kinds=[kind], of_trial=trial).first() is not None

    def after(self, number: int, *kinds: str) -> dict[int, Event]:
        """Return number -> event of these kinds that were recorded after the one with that number, in order."""
        return {row.event_id: _event(row) for row in self._rows.execute(_AFTER, of_event=number, kinds=kinds)}

    def all(self, *kinds: str) -> list[Event]:
        """Return the events of these kinds, in order."""
        return list(self.after(0, *kinds).values())

    def last(self, count: int) -> list[Event]:
        """Return the last events, the newest last."""
        return [_event(row) for row in self._rows.execute(_LAST.limit(count))][::-1]

    def newest_of(self, trials: Sequence[int]) -> dict[int, Event | None]:
        """Return trial -> its newest event other than a user's request to stop it; None if there is none."""
        newest = {row.trial: _event(row) for row in self._rows.execute(_OF_TRIALS, trials=trials)}
        return {trial: newest.get(trial) for trial in trials}

    def newest(self) -> int:
        """Return the number of the newest event; 0 if there is none."""
        return int(self._rows.execute(_NEWEST).scalar() or 0)


def _event(row: sa.Row[Any]) -> Event:
    """Return a row of events as a value."""
    happened = {"happened_at": row.happened_at, "kind": row.kind, "trial": row.trial, "attempt": row.attempt}
    return Event(**happened, detail=json.loads(row.detail))
