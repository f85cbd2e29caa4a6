"""Database of studies: SQLite in WAL or PostgreSQL, with Optuna's storage inside our transactions; outages are retried.

Optuna commits every call by itself. Here its sessions join the transaction that is open in their thread, so that
Optuna's rows and ours are committed together or not at all. Outside a transaction they behave as in plain Optuna.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, Engine, make_url

from hpo.errors import StoreError, StoreUnavailableError
from hpo.store import sqlite
from hpo.store.migrations.upgrade import VERSION_TABLE, is_current, upgrade
from hpo.store.optuna_adapter import JoiningStorage

SUPPORTED = "sqlite:///FILE (or just FILE) on a local disk, or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
USER_AND_PASSWORD = re.compile(r"^[\w+]+://[^:/]*(:[^@]*)?@")
"""The front of a URL, as SQLAlchemy reads it: an @ after it is part of a password and breaks the URL."""
# If several processes create Optuna's tables at once, each failure of one means that another created one more.
OPTUNA_TABLE_ATTEMPTS = 20
FIRST_WAIT, LONGEST_WAIT = 0.05, 5.0
SECONDS_TO_END = 3.0
"""Seconds for which a search that is to end retries the store."""
SECONDS_TO_WARN = 1.0
"""Seconds of waiting after which a warning is logged."""
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Database:
    """One open study database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.storage = JoiningStorage(engine, pickled=(_storage_at, (without_password(engine.url),)))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a write transaction that Optuna's calls of this thread join; all is committed at its end, or nothing.

        Raises:
            StoreError: the database refused or was lost; nothing of the transaction was kept.
        """
        with (
            translated(self.engine.url),
            self.engine.begin() as connection,
            self.storage.scoped_session.joined_to(connection),
        ):
            yield connection

    @contextmanager
    def read_transaction(self) -> Iterator[Connection]:
        """Open a read transaction: one consistent snapshot, which never waits for a writer."""
        options: dict[str, Any] = {"hpo_read_only": True}
        if self.engine.dialect.name == "postgresql":
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        with translated(self.engine.url), self.engine.connect() as plain:
            connection = plain.execution_options(**options)
            with connection.begin(), self.storage.scoped_session.joined_to(connection):
                yield connection

    def close(self) -> None:
        """Close every connection."""
        self.storage.remove_session()
        self.engine.dispose()


def open_database(url: str, *, must_exist: bool = False, is_ending: Callable[[], bool] = lambda: False) -> Database:
    """Open the database at the SQLAlchemy URL `url`, with its tables created or upgraded.

    Args:
        url: address of the database.
        must_exist: True to refuse, unchanged, a database that is not yet a store of hpo.
        is_ending: returns true if the caller is to end, so that a silent server is not waited for.

    Raises:
        StoreError: not a URL, an unsupported kind of store, a network file system, a folder that cannot be written, a
            server that does not answer, or tables of a newer version.
    """
    parsed = parsed_url(url)
    if parsed.get_backend_name() == "sqlite":
        sqlite.check_path(parsed.database, must_exist)
    engine = _engine(parsed, is_ending)
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine, "connect", sqlite.configure)
        event.listen(engine, "begin", sqlite.begin)
    try:
        if must_exist:
            _refuse_without_tables(parsed)
        with translated(parsed):
            is_store = _upgraded(engine)
            database = _with_optuna_tables(engine)
        if not is_store:
            with database.transaction() as connection:
                upgrade(connection)
    except BaseException:
        engine.dispose()
        raise
    return database


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Return a database's error as one sentence that names the store without its password."""
    try:
        yield
    except (exc.SQLAlchemyError, StorageInternalError) as error:
        # Optuna wraps SQLAlchemy's error, which wraps the database's own; the innermost is the most informative.
        wrapped = error.__cause__ if isinstance(error, StorageInternalError) else error
        lines = str(getattr(wrapped, "orig", wrapped)).strip().splitlines()
        words = lines[0].rstrip(".") if lines else type(wrapped).__name__
        kind = StoreUnavailableError if _may_pass(wrapped, words) else StoreError
        raise kind(f"The store {without_password(url)} failed: {words}.") from error


def _may_pass(error: BaseException | None, words: str) -> bool:
    """Return true if the store may answer again: the connection was lost, the disk is full, a lock was held too long.

    SQLite reports a missing table as an operational error too. If Optuna swallows a lost connection and continues,
    SQLAlchemy reports a transaction that waits to be rolled back.
    """
    passing = exc.OperationalError | exc.InterfaceError | exc.InternalError | exc.PendingRollbackError
    return isinstance(error, passing) and "no such" not in words


def without_password(url: URL) -> str:
    """Return `url` in a form that may be shown, logged and pickled: without a password in any part."""
    return str(url._replace(password=None).difference_update_query(["password", "sslpassword"]))


def _storage_at(url: str) -> JoiningStorage:
    return open_database(url).storage


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite store; None for another kind of store.

    Raises:
        StoreError: an invalid URL, or one that names no file, as `sqlite://hpo.db`.
    """
    parsed = parsed_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database:
        raise StoreError(sqlite.NEEDS_FILE)
    return Path(parsed.database)


def parsed_url(url: str) -> URL:
    """Return `url` parsed and completed, if it is of a supported kind.

    Raises:
        StoreError: it is not supported or invalid; the message shows nothing of it, because any part may be a password.
    """
    if "://" in url and not url.startswith("sqlite") and "@" in USER_AND_PASSWORD.sub("", url, count=1):
        raise StoreError(
            "The store's URL cannot be read: write each @ of its password as %40, each / as %2F, each # as %23, each ? "
            "as %3F and each % as %25, and so in all its parts; only the @ before the host stays as it is."
        )
    try:
        parsed = make_url(url if ":" in url else f"sqlite:///{url}")
    except (exc.ArgumentError, ValueError):
        raise StoreError(f"The store's URL cannot be read; it must be {SUPPORTED}.") from None
    if parsed.drivername == "sqlite" and parsed.database:
        # A shell does not expand the `~` in a study file.
        parsed = parsed.set(database=str(Path(parsed.database).expanduser()))
    if isinstance(password := parsed.query.get("password"), str):
        parsed = parsed.set(password=password).difference_update_query(["password"])
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise StoreError(f"A store of the kind {parsed.drivername!r} is not supported; it must be {SUPPORTED}.")
    return parsed


def _engine(url: URL, is_ending: Callable[[], bool], **options: Any) -> Engine:
    """Return an engine for the database at `url`, which takes `options` as SQLAlchemy does."""
    if url.get_backend_name() == "sqlite":
        return sa.create_engine(url, connect_args={"timeout": sqlite.LOCK_TIMEOUT_SECONDS}, **options)
    try:
        from hpo.store.postgresql import engine_of

        return engine_of(url, is_ending, **options)
    except (ModuleNotFoundError, exc.NoSuchModuleError):
        raise StoreError("A PostgreSQL store needs psycopg: pip install 'llm-hpo[postgresql]'.") from None


def _refuse_without_tables(url: URL) -> None:
    """Refuse a database without tables of hpo, unchanged: opening one of SQLite's would switch it to WAL."""
    plain = _engine(url, lambda: False, poolclass=sa.NullPool)
    with translated(url), plain.connect() as connection:
        if sa.inspect(connection).has_table(VERSION_TABLE):
            return
    raise StoreError(
        f"The database {without_password(url)} is no store of hpo's: it has none of its tables. Name another with "
        "--store, or begin one with hpo run."
    )


def _upgraded(engine: Engine) -> bool:
    """Upgrade our tables, and return true if there are any.

    Before Optuna's own check of its version, because a view of an older version depends on its tables.
    """
    with engine.connect() as plain:
        connection = plain.execution_options(hpo_read_only=True)
        is_store = sa.inspect(connection).has_table(VERSION_TABLE)
        older = is_store and not is_current(connection)
    if older:
        with engine.begin() as connection:
            upgrade(connection)
    return is_store


def _with_optuna_tables(engine: Engine) -> Database:
    """Return a database that has Optuna's tables, each created by whichever process comes first."""
    for attempt in range(1, OPTUNA_TABLE_ATTEMPTS + 1):
        try:
            return Database(engine)
        except exc.DBAPIError as error:
            made_meanwhile = "already exists" in str(error) or isinstance(error, exc.IntegrityError)
            if not made_meanwhile or attempt == OPTUNA_TABLE_ATTEMPTS:
                raise
        except RuntimeError as error:
            # Optuna's own check of the version of its tables.
            raise StoreError(f"The store's Optuna tables do not fit the installed Optuna: {error}") from None
    raise AssertionError("the last attempt returns or raises")


def retried_while_away(
    verb: Callable[[], Result],
    seconds: float,
    *,
    stop: Event | None = None,
    sleep: Callable[[float], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Return the result of `verb`, retried for that many seconds while the store does not answer.

    Args:
        verb: an idempotent transaction, because the answer to a commit may be lost.
        seconds: time after which its error is raised.
        stop: once it is set, its error is raised after `SECONDS_TO_END`.
        sleep: waits that many seconds; None for a sleep that `stop` interrupts.
        clock: seconds, from any start.

    Raises:
        StoreUnavailableError: the store was unreachable for longer.
    """
    stop = stop or Event()
    began, wait, is_logged, ending = clock(), FIRST_WAIT, False, False
    until = began + seconds
    while True:
        try:
            result = verb()
        except StoreUnavailableError as error:
            if stop.is_set():
                until, ending = until if ending else min(until, clock() + SECONDS_TO_END), True
            if clock() + wait > until:
                raise
            if max(wait, clock() - began) >= SECONDS_TO_WARN and not is_logged:
                logger.warning("%s It is asked again until it answers; what is training goes on.", error)
                is_logged = True
        else:
            if is_logged:
                logger.warning("The store answers again; the search goes on.")
            return result
        # It stays set, so a search that ends retries as often as one that continues.
        (sleep or (time.sleep if ending else stop.wait))(wait)
        wait = min(2 * wait, LONGEST_WAIT)
