"""Lease of a study: the row that says which process leads it, and until when."""

from dataclasses import dataclass

import sqlalchemy as sa

from hpo.store.optuna_adapter import StudyModel
from hpo.store.rows import STUDY, StudyRows
from hpo.store.tables import clock, leases

_FIRST = sa.text(
    "INSERT INTO hpo_leases (study_id, fence, host, pid, process_started, acquired_at, expires_at) "
    "VALUES (:of_study, 0, '', 0, 0, 0, 0) ON CONFLICT DO NOTHING"
)
"""Makes a lease that is in force for nobody where there is none, and no error in the server's log."""
_NEWEST = sa.select(
    *(column for column in leases.c if column is not leases.c.study_id), clock().label("now")
).where(leases.c.study_id == STUDY)  # fmt: skip
_RENEW = (
    sa.update(leases)
    .where(leases.c.study_id == STUDY, leases.c.fence == sa.bindparam("of_fence"))
    .where(sa.exists().where(StudyModel.study_id == STUDY))
    .values(expires_at=clock() + sa.bindparam("seconds", type_=sa.Double))
)
"""Meets no row if the lease is another's or the study has been deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Who leads a study; times are seconds since 1970 by the database's clock."""

    fence: int
    host: str
    pid: int
    process_started: float
    """Seconds after its machine was started."""
    machine: str | None
    """Identity of the machine that its process number is of: see `leases.machine_id`."""
    acquired_at: float
    expires_at: float
    now: float
    """The database's clock when this was read."""


def read_lease(rows: StudyRows, *, lock: bool = False) -> LeaseRecord | None:
    """Return the newest lease of a study; None if nobody ever led it. `lock` holds it until the transaction ends."""
    row = rows.execute(_NEWEST.with_for_update() if lock else _NEWEST).mappings().first()
    return None if row is None else LeaseRecord(**row)


def lock_lease(rows: StudyRows) -> LeaseRecord:
    """Return the newest lease, in force or not, locked until the transaction ends; fence 0 is nobody's."""
    # Of two first leaders on PostgreSQL the second waits here until the first has committed.
    rows.execute(_FIRST)
    newest = read_lease(rows, lock=True)
    assert newest is not None, "the first one was made"
    return newest


def take_lease(
    rows: StudyRows, *, fence: int, host: str, machine: str, pid: int, process_started: float, seconds: float
) -> None:
    """Write a lease over the newest one, which `lock_lease` has locked."""
    holder = {"fence": fence, "host": host, "machine": machine, "pid": pid, "process_started": process_started}
    taken = sa.update(leases).where(leases.c.study_id == STUDY)
    rows.execute(taken.values(holder | {"acquired_at": clock(), "expires_at": clock() + seconds}))


def renew_lease(rows: StudyRows, fence: int, seconds: float) -> bool:
    """Let the lease of `fence` run `seconds` from now; False if there is a newer one, or no such study."""
    return rows.execute(_RENEW, of_fence=fence, seconds=seconds).rowcount == 1
