"""The command line, and databases to test on: SQLite in the test's own folder, a PostgreSQL that runs for the session.

`..._url` has its tables and no study; `empty_..._url` has nothing yet. Both are the test's own.
"""

import importlib.util
import itertools
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy.engine import make_url

from hpo.cli.main import main
from hpo.store.database import open_database
from tests.command_line import Answer, Hpo

NewDatabase = Callable[[str], str]


@pytest.fixture(scope="session", autouse=True)
def _optuna_reads_its_own_migrations_once() -> Iterator[None]:
    """Not at every opening of a store, which would take a third of these tests' time."""
    original, made = _VersionManager._create_alembic_script, []

    def once(manager: _VersionManager) -> ScriptDirectory:
        if not made:
            made.append(original(manager))
        return made[0]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture(scope="session")
def new_postgresql() -> Iterator[NewDatabase]:
    """Makes a copy of a database on a PostgreSQL server of the session's own, and returns its URL."""
    if importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver is not installed: it has no wheel for this Python")
    import psycopg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns of a variable that a bare machine has not set.
        import pgserver
    # In memory where there is room. Not below pytest's folder: a server started by root may not enter that.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    folder = Path(tempfile.mkdtemp(prefix="hpo-test-", dir=memory if roomy else None))
    server = pgserver.get_server(folder, cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            numbers = itertools.count()

            def new(template: str) -> str:
                name = f"test{next(numbers)}"
                connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
                url = make_url(server.get_uri()).set(drivername="postgresql+psycopg", database=name)
                return url.render_as_string(hide_password=False)

            yield new
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hpo:
    """Run `hpo` with these words in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["hpo", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        shown = capsys.readouterr()
        return Answer(code, shown.out, shown.err)

    return run


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'hpo.db'}"


@pytest.fixture
def empty_postgresql_url(new_postgresql: NewDatabase) -> str:
    return new_postgresql("template0")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "hpo.db"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_template(new_postgresql: NewDatabase) -> str:
    url = new_postgresql("template0")
    open_database(url).close()
    return str(make_url(url).database)


@pytest.fixture
def sqlite_url(empty_sqlite_url: str, sqlite_template: Path) -> str:
    shutil.copy(sqlite_template, str(make_url(empty_sqlite_url).database))
    return empty_sqlite_url


@pytest.fixture
def postgresql_url(new_postgresql: NewDatabase, postgresql_template: str) -> str:
    return new_postgresql(postgresql_template)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


@pytest.fixture(autouse=True)
def _signals_end_what_a_test_starts() -> Iterator[None]:
    """Tests started in the background or by nohup ignore these signals, and so would all processes that they start."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
