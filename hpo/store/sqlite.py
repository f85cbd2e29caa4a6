"""SQLite store: a file on a local disk, a write-ahead log, and a lock before the first statement."""

import errno
import os
import sqlite3
import time
from pathlib import Path

import psutil
from sqlalchemy.engine import Connection

from hpo.errors import StoreError

NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "afs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs",
    "ncpfs", "orangefs", "wekafs", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.ceph",
}  # fmt: skip
LOCK_TIMEOUT_SECONDS = 60
NEEDS_FILE = "A SQLite store needs a file, as in sqlite:///hpo.db, with three slashes: one in memory would be lost."


def check_path(database: str | None, must_exist: bool) -> None:
    """Refuse a path that SQLite would accept and then corrupt, or fail on with an unclear error.

    Args:
        database: path of a store, as in its URL.
        must_exist: True to refuse a missing file instead of creating it.

    Raises:
        StoreError: there is no such file or folder, it cannot be written, is no database, or is on a network.
    """
    if database in (None, "", ":memory:"):
        raise StoreError(NEEDS_FILE)
    path = Path(str(database)).absolute()
    try:
        _check(path, must_exist)
    except OSError as error:
        raise _unwritable(path, error.errno) from None


def _check(path: Path, must_exist: bool) -> None:
    if must_exist and not path.exists():
        raise StoreError(f"There is no store at {path}; name it with --store, or begin a search with hpo run.")
    if not path.parent.is_dir():
        raise StoreError(f"The folder {path.parent} of the store does not exist; make it, or name another.")
    kind = file_system_of(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"SQLite is not safe on a network file system, and {path} is on one ({kind}); use a PostgreSQL store "
            "(postgresql+psycopg://...), or a path on a local disk."
        )
    _check_writable(path)


def _check_writable(path: Path) -> None:
    """Refuse a file that cannot be written or is no database, without changing its content.

    Only SQLite opens an existing file: closing any other handle of it would release the locks that SQLite holds in this
    process, and the next reader to leave would delete the write-ahead log.
    """
    if not path.exists():
        path.open("ab").close()
        return
    if path.is_dir():
        raise _unwritable(path, errno.EISDIR)
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.resolve().parent, os.W_OK):
        raise StoreError(
            f"The store {path} and its folder must be yours to write, which SQLite needs even to read; copy them to a "
            "folder of yours, or name another with --store."
        )
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_SECONDS)
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        # Other problems occur again, and are reported, when the store is opened.
        if "not a database" in str(error):
            raise StoreError(f"The file {path} is no SQLite database; name another with --store.") from None
    finally:
        connection.close()


def _unwritable(path: Path, number: int | None) -> StoreError:
    why = os.strerror(number or errno.EIO)
    return StoreError(f"The store {path} cannot be written: {why}; name another with --store.")


def file_system_of(folder: Path) -> str:
    """Return the type of the file system that `folder` is on, as the kernel names it; empty if unknown."""
    resolved = folder.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[place] for place in (resolved, *resolved.parents) if place in mounts), "")


def configure(connection: sqlite3.Connection, _record: object) -> None:
    """Set up a new connection: write-ahead log, and durable commits."""
    # The driver must not open transactions of its own: `begin` does.
    connection.isolation_level = None
    _switch_to_wal(connection)
    connection.execute("PRAGMA synchronous = FULL")


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; several processes that open a new file at once take turns."""
    until = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # The one statement at which SQLite fails at once instead of waiting for the lock.
            if "locked" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(0.02)


def begin(connection: Connection) -> None:
    """Begin a transaction."""
    # In SQLite's default mode, a transaction that reads and then writes fails at once if another wrote in between, so a
    # writer takes its lock first; a reader takes none.
    read_only = connection.get_execution_options().get("hpo_read_only", False)
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")
