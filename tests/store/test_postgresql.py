"""A PostgreSQL behind a line that is cut, and behind a pool that hands each transaction another session."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from hpo.errors import StoreUnavailableError
from hpo.store import postgresql
from hpo.store.database import open_database
from hpo.store.results import read_results
from tests.cut_line import Line, line_to
from tests.search.scripted import led, rows, search, study_at


@pytest.fixture
def line(postgresql_url: str) -> Iterator[Line]:
    with line_to(postgresql_url) as made:
        yield made


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 1.5)


def test_a_line_is_noticed_to_be_cut_within_half_a_minute() -> None:
    """A connection of the pool is asked whether it is alive first, and then another is tried."""
    assert postgresql.ANSWER_SECONDS + postgresql.CONNECT_SECONDS < 30


@pytest.mark.parametrize("cut", ["before", "within", "at the end"])
def test_a_cut_line_is_noticed_and_a_mended_one_used_again(
    line: Line, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    database = open_database(line.url)
    with database.transaction() as connection:
        connection.execute(sa.text("CREATE TABLE kept (number INTEGER)"))

    def insert() -> None:
        if cut == "before":
            line.cut()
        with database.transaction() as connection:
            connection.execute(sa.text("INSERT INTO kept VALUES (1)"))
            line.cut()
            if cut == "within":
                connection.execute(sa.text("INSERT INTO kept VALUES (2)"))

    with pytest.raises(StoreUnavailableError, match=r"did not answer for 1\.5 seconds|timeout expired"):
        insert()
    line.mend()
    with database.read_transaction() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM kept")).scalar() == 0
    database.close()


def test_a_search_that_is_to_end_waits_less(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    ending: list[bool] = []
    monkeypatch.setattr(postgresql, "ENDING_ANSWER_SECONDS", 0.5)
    database = open_database(line.url, is_ending=lambda: bool(ending))

    def ask() -> None:
        with database.transaction() as connection:
            line.cut()
            ending.append(True)
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(StoreUnavailableError, match=r"did not answer for 0\.5 seconds"):
        ask()
    database.close()


def test_nothing_of_a_session_outlives_a_transaction(postgresql_url: str) -> None:
    """Whoever pools by transaction gives the session to another next, and this one another."""
    database = open_database(postgresql_url)
    idleness = sa.text("SHOW idle_in_transaction_session_timeout")
    with database.transaction() as connection:
        assert connection.execute(idleness).scalar() == "90s"
    for _ in range(8):
        with database.read_transaction() as connection:
            connection.execute(sa.text("SELECT count(*) FROM studies WHERE study_name = :name"), {"name": "s"})
    raw = database.engine.raw_connection()
    with raw.cursor() as cursor:
        for query, expected in (
            ("SELECT count(*) FROM pg_prepared_statements", 0),
            ("SELECT count(*) FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction_%'", 0),
            ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", 0),
        ):
            cursor.execute(query)
            assert cursor.fetchone() == (expected,)
    raw.close()
    database.close()


# -- PgBouncer, where it is installed


@pytest.fixture
def pooled_url(postgresql_url: str, tmp_path: Path) -> Iterator[str]:
    """The server behind a PgBouncer that has two sessions of it for everybody, each lent for a transaction."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    with line_to(postgresql_url) as line, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        database = make_url(postgresql_url).database
        through = make_url(line.url)
        settings = tmp_path / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n{database} = host=127.0.0.1 port={through.port} user={through.username}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n"
            "default_pool_size = 2\nmax_db_connections = 2\nunix_socket_dir =\n"
        )
        # It refuses to run as root.
        user = {"user": "nobody"} if os.getuid() == 0 else {}
        command = [program, "-q", "/dev/stdin"]
        with settings.open() as given, subprocess.Popen(command, stdin=given, **user) as pool:
            try:
                wait_until_listening(port)
                yield through.set(port=port).render_as_string(hide_password=False)
            finally:
                pool.terminate()


def wait_until_listening(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)


@pytest.mark.timeout(120)
def test_a_search_goes_through_pgbouncer_that_pools_by_transaction(pooled_url: str, postgresql_url: str) -> None:
    config = study_at(pooled_url, budget={"trials": 12})
    with led(config) as coordinator:
        search(coordinator)
    with led(study_at(pooled_url, budget={"trials": 16})) as coordinator:
        search(coordinator)
        assert coordinator.standing().completed == 16
    database = open_database(pooled_url)
    assert len(read_results(database).trials) == 16
    database.close()
    [(settings,)] = rows(pooled_url, "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name LIKE 'idle%'")
    assert settings == 0
