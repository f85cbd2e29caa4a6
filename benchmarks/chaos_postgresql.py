"""A PostgreSQL of our own, which can be stopped and started."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from pgserver.postgres_server import PostgresServer


@contextmanager
def postgresql_server(timezone: str = "UTC") -> Iterator[tuple["PostgresServer", str]]:
    """Run a PostgreSQL of our own, and yield it with the URL of an empty database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of a variable that a bare machine has not set.
        import pgserver
    # Not below a section's folder: a server that root starts runs as another user, who may not enter that.
    folder = tempfile.mkdtemp(prefix="hpo-postgresql-")
    server = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        server.psql(f"ALTER SYSTEM SET timezone = '{timezone}'; SELECT pg_reload_conf();")
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield server, url.render_as_string(hide_password=False)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def stop_server(server: "PostgresServer", how: str) -> None:
    """Stop PostgreSQL: `fast` with a word to its clients, `immediate` as by a crash."""
    from pgserver._commands import pg_ctl

    pg_ctl(["-w", "-m", how, "stop"], pgdata=server.pgdata, user=server.system_user)


def cut_transactions(url: str) -> int:
    """Cut the connections that are in a transaction right now, and return how many they were."""
    others = "datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    cut = sa.text(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {others}")
    try:
        with sa.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
            return int(connection.execute(cut).scalar_one())
    except OperationalError:
        return 0
