"""Study leases: one process at a time leads a study, by the database's clock."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from hpo.errors import StoreError, StudyLedError
from hpo.store.database import Database
from hpo.store.lease_rows import LeaseRecord, lock_lease, renew_lease, take_lease
from hpo.store.rows import StudyRows
from hpo.store.study_store import StudyStore

LEASE_SECONDS = 30.0
RENEWAL_SECONDS = 10.0

_logger = logging.getLogger(__name__)


class Lease:
    """This process's lease on a study. Its fence rises with each leader; a verb of an older one is refused."""

    def __init__(self, store: StudyStore, fence: int) -> None:
        self._store = store
        self.fence = fence
        self._confirmed_at = time.monotonic()

    def confirm(self) -> None:
        """Renew the lease inside the store's open transaction; what follows in it is written by the leader.

        Raises:
            StudyLedError: another process has taken the lease over.
        """
        if not renew_lease(self._store.rows, self.fence, LEASE_SECONDS):
            lease = lock_lease(self._store.rows)
            taken = f"is now led by {_leader(lease)}" if lease.fence > self.fence else "has been deleted"
            raise StudyLedError(f"The study {self._store.name!r} {taken}; this search ends and writes nothing more.")
        self._confirmed_at = time.monotonic()

    def confirm_before_commit(self) -> None:
        """Renew the lease again where the transaction took long, so that it has not lapsed at the commit.

        Nobody could take it meanwhile: on PostgreSQL the lease's row is locked, on SQLite the file.
        """
        if time.monotonic() - self._confirmed_at > RENEWAL_SECONDS:
            self.confirm()

    def release(self) -> None:
        """End the lease, so that the next start need not wait for it."""
        renew_lease(self._store.rows, self.fence, 0.0)


def acquire_lease(store: StudyStore) -> Lease:
    """Take the lease of `store`'s study, inside its open transaction.

    Raises:
        StudyLedError: another process leads the study; says which, since when and for how long at least.
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
    """Renew a lease from a thread of its own, while the block trains for longer than a lease runs."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEWAL_SECONDS):
            try:
                with database.transaction() as connection:
                    if not renew_lease(StudyRows(store.rows.study_id, connection), fence, LEASE_SECONDS):
                        return  # Another leads; the next verb says who.
            except StoreError as error:
                # The database may be back before the lease is over; the next verb says so if not.
                _logger.warning("The lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="hpo-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def leader_of(lease: LeaseRecord) -> str | None:
    """Return who leads a study and since when, for a sentence; None if nobody does."""
    return _leader(lease) if lease.expires_at > lease.now and not _is_dead(lease) else None


def _is_dead(lease: LeaseRecord) -> bool:
    """Return whether the leader ran on this machine and is gone, its process number free or reused."""
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

    Containers may share their host's name, and a machine that was started again gives the same numbers anew.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return "/".join(parts)[:128]


def _started(process: psutil.Process) -> float:
    """Return the start of a process in seconds since that of its machine, which setting the clock does not change."""
    return process.create_time() - psutil.boot_time()
