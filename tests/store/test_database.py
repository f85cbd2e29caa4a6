"""Opening a store: what is accepted, how it is refused, and what a transaction is."""

import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from hpo.errors import StoreError
from hpo.store import sqlite
from hpo.store.database import Database, open_database
from hpo.store.sqlite import file_system_of
from tests.search.scripted import CPU, everything, led, rows, study_at, train, written


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = open_database(database_url)
    yield opened
    opened.close()


# -- what is refused


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user:s3cret@host/db", "A store of the kind 'mysql' is not supported; it must be sqlite:///FILE"),
        ("sqlite+aiosqlite:///x.db", "A store of the kind 'sqlite+aiosqlite' is not supported"),
        ("postgresql:/host/db", "The store's URL cannot be read; it must be sqlite:///FILE"),
        ("postgresql://user:s3cret@host:port/db", "The store's URL cannot be read"),
        ("sqlite://", "A SQLite store needs a file, as in sqlite:///hpo.db"),
        ("sqlite:///:memory:", "A SQLite store needs a file"),
        ("sqlite:////no/such/folder/hpo.db", "The folder /no/such/folder of the store does not exist; make it"),
        ("sqlite:////", "The store / cannot be written: Is a directory"),
        ("sqlite:////proc/hpo.db", "The store /proc/hpo.db cannot be written"),
    ],
)
def test_a_store_that_cannot_be_is_refused_in_a_sentence(url: str, said: str) -> None:
    with pytest.raises(StoreError) as error:
        open_database(url)
    assert str(error.value).startswith(said)
    assert "s3cret" not in str(error.value)


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"The folder .*/file of the store does not exist"):
        open_database(f"sqlite:///{tmp_path}/file/hpo.db")


def test_it_is_the_real_file_s_folder_that_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite writes its log beside the real file; root, who may run this, may write everywhere."""
    closed, free = tmp_path / "closed", tmp_path / "free"
    for folder, other in ((closed, free), (free, closed)):
        folder.mkdir()
        open_database(f"sqlite:///{folder / 'here.db'}").close()
        (folder / "there.db").symlink_to(other / "here.db")
    may = os.access
    monkeypatch.setattr(os, "access", lambda where, mode: Path(where) != closed and may(where, mode))
    for path in (closed / "here.db", free / "there.db"):
        with pytest.raises(StoreError, match="and its folder must be yours to write, which SQLite needs even to read"):
            open_database(f"sqlite:///{path}", must_exist=True)
    open_database(f"sqlite:///{closed / 'there.db'}", must_exist=True).close()


@pytest.mark.parametrize("must_exist", [False, True])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, must_exist: bool) -> None:
    with pytest.raises(StoreError, match=r"The store .* cannot be written: File name too long; name another"):
        open_database(f"sqlite:///{tmp_path / ('x' * 300)}", must_exist=must_exist)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\nhello,1\n")
    with pytest.raises(StoreError, match="is no SQLite database"):
        open_database(f"sqlite:///{texts}")
    assert texts.read_text() == "text,label\nhello,1\n"


def test_a_store_opened_twice_keeps_its_locks_so_that_no_reader_takes_its_log_away(tmp_path: Path) -> None:
    """The last one to leave a SQLite file deletes its write-ahead log; who is the last is told by locks."""
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    leading = open_database(url)
    with leading.transaction() as connection:
        connection.execute(sa.text("CREATE TABLE kept (number INTEGER)"))
    open_database(url).close()
    path = str(tmp_path / "hpo.db")
    reader = f"import sqlite3; print(sqlite3.connect({path!r}).execute('SELECT * FROM kept').fetchall())"

    def read() -> str:
        return subprocess.run([sys.executable, "-c", reader], check=True, capture_output=True, text=True).stdout

    assert read() == "[]\n"
    assert (tmp_path / "hpo.db-wal").exists()
    with leading.transaction() as connection:
        connection.execute(sa.text("INSERT INTO kept VALUES (1)"))
    assert read() == "[(1,)]\n"
    leading.close()


def test_a_store_to_be_read_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"There is no store at .*hpo\.db"):
        open_database(f"sqlite:///{tmp_path}/hpo.db", must_exist=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statements", [(), ("CREATE TABLE theirs (number INTEGER)",)], ids=["empty", "of others"])
def test_a_file_that_is_no_store_of_ours_is_read_without_a_change(tmp_path: Path, statements: tuple[str, ...]) -> None:
    path = tmp_path / "other.db"
    path.touch()
    written(f"sqlite:///{path}", *statements)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"other\.db is no store of hpo's: it has none of its tables"):
        open_database(f"sqlite:///{path}", must_exist=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_server_s_empty_database_is_read_without_a_change(empty_postgresql_url: str) -> None:
    with pytest.raises(StoreError, match="is no store of hpo's"):
        open_database(empty_postgresql_url, must_exist=True)
    plain = sa.create_engine(empty_postgresql_url)
    assert sa.inspect(plain).get_table_names() == []
    plain.dispose()


def test_sqlite_on_a_network_file_system_is_refused(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "file_system_of", lambda _folder: "nfs4")
    with pytest.raises(StoreError, match=r"not safe on a network file system, and .* is on one \(nfs4\)"):
        open_database(sqlite_url)


def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount() -> None:
    assert file_system_of(Path("/proc")) == file_system_of(Path("/proc/self")) == "proc"
    assert file_system_of(Path("/")) != "proc"


def test_without_psycopg_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(sa, "create_engine", missing)
    with pytest.raises(StoreError, match=r"pip install 'llm-hpo\[postgresql\]'"):
        open_database("postgresql://host/db")


# -- what is opened


def test_a_url_may_hold_braces_and_percent_signs(tmp_path: Path) -> None:
    """Optuna takes a URL for a template, and Alembic its settings for another."""
    folder = tmp_path / "{0} 100% {x}"
    folder.mkdir()
    database = open_database(f"sqlite:///{folder}/hpo.db")
    assert database.storage.get_all_studies() == []
    copy = pickle.loads(pickle.dumps(database.storage))
    assert copy.get_all_studies() == []
    copy.engine.dispose()
    database.close()
    assert [path.name for path in folder.iterdir()] == ["hpo.db"]


def test_a_bare_path_is_a_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_database("night.db").close()
    assert [path.name for path in tmp_path.iterdir()] == ["night.db"]


def test_the_short_name_of_postgresql_is_understood(postgresql_url: str) -> None:
    database = open_database(postgresql_url.replace("postgresql+psycopg://", "postgresql://"))
    assert database.engine.dialect.driver == "psycopg"
    database.close()


def test_sqlite_keeps_what_is_committed_through_a_loss_of_power(sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    with database.read_transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    database.close()


def test_plain_optuna_and_hpo_share_a_file(empty_sqlite_url: str) -> None:
    """A study that plain Optuna made before is still there, in a store made by Optuna."""
    storage = optuna.storages.RDBStorage(empty_sqlite_url)
    optuna.create_study(study_name="earlier", storage=storage).add_trial(optuna.create_trial(value=0.5))
    storage.remove_session()
    storage.engine.dispose()
    with led(study_at(empty_sqlite_url)) as coordinator:
        assert coordinator.standing().finished == 0
    names = rows(empty_sqlite_url, "SELECT study_name FROM studies ORDER BY study_id")
    assert names == [("earlier",), ("scripted",)]


def test_opening_a_store_again_changes_nothing(database_url: str) -> None:
    before = everything(database_url)
    open_database(database_url).close()
    assert everything(database_url) == before


def test_a_failed_opening_leaves_no_connection(postgresql_url: str) -> None:
    written(postgresql_url, "UPDATE hpo_alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError):
        open_database(postgresql_url)
    mine = "FROM pg_stat_activity WHERE datname = current_database()"
    assert rows(postgresql_url, f"SELECT count(*) {mine}") == [(1,)]


# -- transactions


def test_outside_a_transaction_optuna_commits_by_itself(database: Database, database_url: str) -> None:
    optuna.create_study(study_name="s", storage=database.storage)
    assert rows(database_url, "SELECT study_name FROM studies") == [("s",)]


def test_inside_a_transaction_nothing_is_seen_before_its_end(database: Database, database_url: str) -> None:
    study = optuna.create_study(study_name="s", storage=database.storage)
    with database.transaction():
        study.tell(study.ask(), 0.5)
        assert rows(database_url, "SELECT 1 FROM trials") == []
    assert rows(database_url, "SELECT 1 FROM trials") == [(1,)]


def test_a_transaction_is_its_threads_own(postgresql_url: str) -> None:
    """Optuna in another thread sees nothing of it."""
    database = open_database(postgresql_url)
    study = optuna.create_study(study_name="s", storage=database.storage)
    seen: list[int] = []

    def another() -> None:
        other = optuna.load_study(study_name="s", storage=database.storage)
        seen.append(len(other.trials))
        database.storage.remove_session()

    with database.transaction():
        study.ask()
        thread = threading.Thread(target=another)
        thread.start()
        thread.join()
    assert seen == [0]
    assert len(study.trials) == 1
    database.close()


def test_a_reader_sees_one_moment(database: Database, database_url: str) -> None:
    """What is committed while it reads is not half seen, and it holds nobody up."""
    with database.read_transaction() as connection:
        count = sa.text("SELECT count(*) FROM studies")
        assert connection.execute(count).scalar() == 0
        with led(study_at(database_url)) as coordinator:
            assignment = coordinator.next_assignment("r", CPU)
            assert assignment is not None
            train(coordinator, assignment)
        assert connection.execute(count).scalar() == 0
        assert connection.execute(sa.text("SELECT count(*) FROM hpo_attempts")).scalar() == 0
    with database.read_transaction() as connection:
        assert connection.execute(count).scalar() == 1


def test_a_reader_cannot_write_on_postgresql(postgresql_url: str) -> None:
    database = open_database(postgresql_url)
    with pytest.raises(StoreError, match="read-only transaction"), database.read_transaction() as connection:
        connection.execute(sa.text("DELETE FROM hpo_events"))
    database.close()


def test_two_writers_of_a_sqlite_file_wait_for_each_other(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where one waits in vain, a sentence says so."""
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_SECONDS", 0.01)
    database = open_database(sqlite_url)
    other = sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="failed: database is locked"), database.transaction():
        pass
    other.execute("ROLLBACK")
    with database.transaction():
        pass
    other.close()
    database.close()


def test_a_lost_server_is_a_sentence_and_the_next_verb_goes_on(postgresql_url: str) -> None:
    """PostgreSQL ends the leader's connections, as in a restart: that verb leaves nothing, and can be asked again."""
    with led(study_at(postgresql_url)) as coordinator:
        database = coordinator._store.database
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

        def cut_off() -> None:
            with coordinator._store.transaction():
                coordinator._store.study.ask()
                rows(postgresql_url, f"SELECT pg_terminate_backend(pid) {others}")
                coordinator._store.study.ask()

        with pytest.raises(StoreError, match=r"terminating connection|closed the connection"):
            cut_off()
        assert rows(postgresql_url, "SELECT number, CAST(state AS VARCHAR) FROM trials") == [(0, "WAITING")]
        assert coordinator.next_assignment("r", CPU) is not None
        database.close()
