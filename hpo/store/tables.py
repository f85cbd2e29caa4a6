"""Our tables beside Optuna's. Times are seconds since 1970 in UTC by the database's clock.

No foreign key points into Optuna's tables: a lock of ours must never wait for one of theirs, and whoever deletes a
study with Optuna's own tools must succeed. `hpo_studies.uid` tells a study from a later one of the same number.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class clock(FunctionElement[float]):  # noqa: N801 (it is an SQL function)
    """The database's own clock: seconds since 1970 in UTC, whatever the time zones of server and session are."""

    type = Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _sqlite_clock(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _postgresql_clock(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


metadata = MetaData()
# SQLite numbers rows by itself only in a column that it knows as INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")

UNFINISHED = text("state IN ('RUNNING', 'WAITING')")

studies = Table(
    "hpo_studies",
    metadata,
    Column("study_id", Integer, primary_key=True),
    Column("name", String(512)),  # as Optuna has it, for the leaderboard
    Column("uid", String(32), nullable=False),
    Column("configuration", Text, nullable=False),  # JSON: the whole study file, defaults included, no password
    Column("space", Text, nullable=False),  # JSON: the parameters
    Column("data_fingerprint", String(64), nullable=False),
    Column("versions", Text, nullable=False),  # JSON: package -> version
    Column("measurements", Text),  # JSON: what was measured to choose precision and threads
    Column("created_at", Double, nullable=False, default=clock()),
)

leases = Table(
    "hpo_leases",
    metadata,
    Column("study_id", Integer, primary_key=True),
    Column("fence", RowNumber, nullable=False),  # rises with each leader; a verb of an older one is refused
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started", Double, nullable=False),  # seconds after its machine: a pid has many bearers
    Column("machine", String(128)),  # which boot of which machine, and whose process numbers
    Column("acquired_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
)

trials = Table(
    "hpo_trials",  # as Optuna has them, for the leaderboard: a view on its tables would keep it from changing them
    metadata,
    Column("study_id", Integer, nullable=False),
    Column("trial", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("score", Double),
    PrimaryKeyConstraint("study_id", "trial"),
    Index("hpo_trials_open", "study_id", postgresql_where=UNFINISHED, sqlite_where=UNFINISHED),
)

attempts = Table(
    "hpo_attempts",
    metadata,
    Column("study_id", Integer, nullable=False),
    Column("trial", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("request", String(64), nullable=False),
    Column("worker", String(128), nullable=False),
    Column("device", String(64), nullable=False),
    Column("configuration", Text, nullable=False),  # JSON: the hyperparameters trained, real learning rate
    Column("seed", RowNumber, nullable=False),
    Column("score_to_beat", Double),
    Column("started_at", Double, nullable=False, default=clock()),
    Column("ended_at", Double),
    Column("ending", String(16)),
    Column("reason", Text),
    Column("seconds", Double),
    Column("peak_memory_bytes", BigInteger),
    Column("best_rung", Integer),
    Column("best_attempt", Integer),  # an earlier one, where this went on from its checkpoint
    Column("rows_at_once", Integer),  # rows of a batch, where memory did not suffice for all
    Column("resumed_examples", BigInteger),  # seen at the checkpoint that it went on from
    Column("device_seconds", Double),  # of this attempt alone, times the devices of a trial
    Column("confirms", Integer),  # the trial of another study that this one is judged in the place of
    PrimaryKeyConstraint("study_id", "trial", "attempt"),
    UniqueConstraint("study_id", "request"),
)

evaluations = Table(
    "hpo_evaluations",
    metadata,
    Column("study_id", Integer, nullable=False),
    Column("trial", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("rung", Integer, nullable=False),  # per mille of the study's longest trial
    Column("is_full", Boolean, nullable=False),  # all of validation, or the part scored at rungs
    Column("step", Integer, nullable=False),
    Column("epoch", Double, nullable=False),
    Column("examples_seen", BigInteger, nullable=False),
    Column("learning_rate", Double, nullable=False),
    Column("train_loss", Double, nullable=False),
    Column("score", Double, nullable=False),  # the objective on validation
    Column("train_score", Double),  # the objective on a sample of the training rows
    Column("validation_scores", Text, nullable=False),  # JSON
    Column("train_scores", Text),  # JSON
    Column("reading", Text),  # JSON: what a trial that confirms another is judged by
    Column("action", String(16), nullable=False),  # what the coordinator answered
    Column("seconds", Double, nullable=False),
    Column("peak_memory_bytes", BigInteger, nullable=False),
    Column("reported_at", Double, nullable=False, default=clock()),
    PrimaryKeyConstraint("study_id", "trial", "attempt", "rung"),
)

events = Table(
    "hpo_events",
    metadata,
    Column("event_id", RowNumber, primary_key=True, autoincrement=True),
    Column("study_id", Integer, nullable=False),
    Column("happened_at", Double, nullable=False, default=clock()),
    Column("kind", String(32), nullable=False),
    Column("trial", Integer),
    Column("attempt", Integer),
    Column("detail", Text, nullable=False),  # JSON
    Index("hpo_events_by_kind", "study_id", "kind", "event_id"),
)
