"""Databases to test on: SQLite in the test's own folder, and a real PostgreSQL that runs for the session."""

import importlib.util
import itertools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

NewDatabase = Callable[[], str]


@pytest.fixture(scope="session")
def new_postgresql() -> Iterator[NewDatabase]:
    """Makes an empty database on a PostgreSQL server of the session's own and returns its URL."""
    if importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver is not installed: it has no wheel for this Python")
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of a variable that a bare machine has not set.
        import pgserver
    # Not below pytest's folder, which a server that was started by root cannot enter as the user it becomes.
    folder = Path(tempfile.mkdtemp(prefix="hpo-test-"))
    server = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            numbers = itertools.count()

            def new() -> str:
                name = f"test{next(numbers)}"
                connection.execute(f"CREATE DATABASE {name}")
                url = make_url(server.get_uri()).set(drivername="postgresql+psycopg", database=name)
                return url.render_as_string(hide_password=False)

            yield new
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hpo.db'}"


@pytest.fixture
def postgresql_url(new_postgresql: NewDatabase) -> str:
    return new_postgresql()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
