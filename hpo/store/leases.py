"""Study leases: one process at a time leads a study, by the database's clock."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import sqlalchemy as sa

from hpo.errors import StoreError, StudyLedError
from hpo.store.database import Database
from hpo.store.optuna_adapter import StudyModel
from hpo.store.study_store import StudyStore
from hpo.store.tables import STUDY, StudyRows, clock, leases

_FIRST = sa.text(
    "INSERT INTO hpo_leases (study_id, fence, host, pid, process_started, acquired_at, expires_at) "
    "VALUES (:of_study, 0, '', 0, 0, 0, 0) ON CONFLICT DO NOTHING"
)
"""Inserts an expired lease if there is none, without an error in the server's log."""
_NEWEST = sa.select(
    *(column for column in leases.c if column is not leases.c.study_id), clock().label("now")
).where(leases.c.study_id == STUDY)  # fmt: skip
_RENEW = (
    sa.update(leases)
    .where(leases.c.study_id == STUDY, leases.c.fence == sa.bindparam("of_fence"))
    .where(sa.exists().where(StudyModel.study_id == STUDY))
    .values(expires_at=clock() + sa.bindparam("seconds", type_=sa.Double))
)
"""Updates no row if the lease belongs to another process or the study has been deleted."""
LEASE_SECONDS = 30.0
RENEWAL_SECONDS = 10.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Leader of a study; times are seconds since 1970 by the database's clock."""

    fence: int
    host: str
    pid: int
    process_started: float
    """Seconds after its machine was started."""
    machine: str | None
    """Identity of the machine on which its process number is valid: see `leases.machine_id`."""
    acquired_at: float
    expires_at: float
    now: float
    """Time of reading, by the database's clock."""


def read_lease(rows: StudyRows, *, lock: bool = False) -> LeaseRecord | None:
    """Return the newest lease of a study; None if it never had a leader. `lock` holds it until the transaction ends."""
    row = rows.execute(_NEWEST.with_for_update() if lock else _NEWEST).mappings().first()
    return None if row is None else LeaseRecord(**row)


def lock_lease(rows: StudyRows) -> LeaseRecord:
    """Return the newest lease, valid or not, locked until the transaction ends; fence 0 means no leader."""
    # On PostgreSQL, the second of two first leaders waits here until the first has committed.
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


class Lease:
    """This process's lease on a study. Its fencing number rises with each leader; older leaders are refused."""

    def __init__(self, store: StudyStore, fence: int) -> None:
        self._store = store
        self.fence = fence
        self._confirmed_at = time.monotonic()

    def confirm(self) -> None:
        """Renew the lease inside the store's open transaction, so that the rest of it is written as the leader.

        Raises:
            StudyLedError: another process has taken over the lease.
        """
        if not renew_lease(self._store.rows, self.fence, LEASE_SECONDS):
            lease = lock_lease(self._store.rows)
            taken = f"is now led by {_leader(lease)}" if lease.fence > self.fence else "has been deleted"
            raise StudyLedError(f"The study {self._store.name!r} {taken}; this search ends and writes nothing more.")
        self._confirmed_at = time.monotonic()

    def confirm_before_commit(self) -> None:
        """Renew the lease again if the transaction took long, so that it is valid at the commit.

        No other process could take it meanwhile: on PostgreSQL the lease's row is locked, on SQLite the file.
        """
        if time.monotonic() - self._confirmed_at > RENEWAL_SECONDS:
            self.confirm()

    def release(self) -> None:
        """Release the lease, so that the next start need not wait for it to expire."""
        renew_lease(self._store.rows, self.fence, 0.0)


def acquire_lease(store: StudyStore) -> Lease:
    """Take the lease of `store`'s study, within its open transaction.

    Raises:
        StudyLedError: another process leads the study; the message says which, since when and for how long at least.
    """
    lease = lock_lease(store.rows)
    if leader := leader_of(lease):
        raise StudyLedError(
            f"The study {store.name!r} is led by {leader}. Wait for it, or stop it; if it is gone, its lease "
            f"lapses in {lease.expires_at - lease.now:.0f} seconds. Or start another study with --study NAME."
        )
    take_lease(
        store.rows, fence=lease.fence + 1, host=socket.gethostname(), pid=os.getpid(),
        process_started=_started(psutil.Process()), machine=machine_id(), seconds=LEASE_SECONDS,
    )  # fmt: skip
    return Lease(store, lease.fence + 1)


@contextlib.contextmanager
def renewed_lease(database: Database, store: StudyStore, fence: int) -> Iterator[None]:
    """Renew a lease in a separate thread, while the block trains for longer than a lease lasts."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_SECONDS):
            try:
                with database.transaction() as connection:
                    if not renew_lease(StudyRows(store.rows.study_id, connection), fence, LEASE_SECONDS):
                        return  # Another process leads; the next method call reports it.
            except StoreError as error:
                # The database may be back before the lease expires; if not, the next method call reports it.
                _logger.warning("The lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="hpo-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def leader_of(lease: LeaseRecord) -> str | None:
    """Return the leader of a study and the start of its lead, for a sentence; None if there is no leader."""
    return _leader(lease) if lease.expires_at > lease.now and not _is_dead(lease) else None


def _is_dead(lease: LeaseRecord) -> bool:
    """Return true if the leader ran on this machine and is gone, its process number free or reused."""
    if lease.machine != machine_id():
        return False
    try:
        process = psutil.Process(lease.pid)
        # A process that was killed and not yet waited for by its parent still has its number.
        another = abs(_started(process) - lease.process_started) > 1.0
        return another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _leader(lease: LeaseRecord) -> str:
    since = datetime.fromtimestamp(lease.acquired_at, UTC).astimezone()
    return f"process {lease.pid} on {lease.host} since {since:%Y-%m-%d %H:%M:%S %Z}"


def machine_id() -> str:
    """Return the scope of process numbers: this boot of this machine, and the namespace of a container.

    Containers may share their host's name, and a restarted machine reuses process numbers.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)[:128]


def _started(process: psutil.Process) -> float:
    """Return the start of a process in seconds since that of its machine, which setting the clock does not change."""
    return process.create_time() - psutil.boot_time()
