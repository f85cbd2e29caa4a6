"""No password of a store is ever shown or kept, whatever its URL and its server do."""

import pickle
import socket
import traceback

import pytest
from sqlalchemy.engine import make_url

from hpo.errors import StoreError
from hpo.store import postgresql
from hpo.store.database import open_database, parsed_url, without_password

SECRET = "s3cr%40t"


def with_password(url: str) -> str:
    """Return the URL of a PostgreSQL that asks for no password, with one."""
    return make_url(url).set(password=SECRET).render_as_string(hide_password=False)


def test_neither_the_storage_nor_its_pickle_holds_a_password(postgresql_url: str) -> None:
    for url in (with_password(postgresql_url), f"{postgresql_url}&password={SECRET}"):
        assert "s3cr" in url
        database = open_database(url)
        pickled = pickle.dumps(database.storage)
        assert b"s3cr" not in pickled
        assert "s3cr" not in database.storage.url
        assert "s3cr" not in repr(vars(database.storage))
        database.close()
        copy = pickle.loads(pickled)
        assert copy.get_all_studies() == []
        copy.engine.dispose()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@host:5432/db", "postgresql://u@host:5432/db"),
        ("postgresql://host/db?user=u&password=s3cret", "postgresql://host/db?user=u"),
        ("postgresql://u@host/db?sslpassword=s3cret&sslmode=require", "postgresql://u@host/db?sslmode=require"),
        ("sqlite:////folder/hpo.db", "sqlite:////folder/hpo.db"),
    ],
)
def test_a_store_is_named_without_its_password(url: str, shown: str) -> None:
    assert without_password(make_url(url)) == shown


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.parametrize("must_exist", [False, True])
def test_a_server_that_says_nothing_is_not_waited_for(must_exist: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver by itself would wait for more than two minutes; who only reads waits no longer than who writes."""
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreError, match="timeout expired"):
            open_database(f"postgresql+psycopg://user@127.0.0.1:{port}/db", must_exist=must_exist)


def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    url = f"postgresql+psycopg://user:{SECRET}@127.0.0.1:{closed_port()}/db"
    with pytest.raises(StoreError) as error:
        open_database(url)
    said = str(error.value)
    assert said.startswith("The store postgresql+psycopg://user@127.0.0.1")
    assert "refused" in said
    assert "s3cr" not in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "rest",
    [
        "user:one@s3cret@host/db",
        "me:p@s3cret/w:rd#1@localhost:5999/db",
        "me:p@s3cret:w@localhost/db",
        "me:p@s3cret?w@localhost/db",
        "me:p@host/db?options=s3cret@x",
        "me/s3cret:p@host/db",
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql"])
def test_nothing_is_said_of_a_url_that_its_password_breaks(scheme: str, rest: str) -> None:
    """Part of it would be taken for the host, the database or an option, and be shown as such."""
    with pytest.raises(StoreError, match="write each @ of its password as %40, each / as %2F, each # as %23") as error:
        open_database(f"{scheme}://{rest}")
    assert "s3cret" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@azure:pa/s#w:r?d@host/d%40b",
        "postgresql://me@[::1]:5432/db",
        "sqlite:////a@b/c@d.db",
        "a@b/c.db",
    ],
)
def test_a_url_that_is_whole_may_hold_any_sign(url: str) -> None:
    assert (parsed_url(url).password or "pa/s#w:r?d") == "pa/s#w:r?d"
    assert (parsed_url(url).host or "host") in ("host", "::1")


def test_a_wrong_password_is_one_sentence(postgresql_url: str) -> None:
    """The server of the tests asks for none, so a user is named that it does not know."""
    with pytest.raises(StoreError, match='role "nobody" does not exist') as error:
        open_database(make_url(with_password(postgresql_url)).set(username="nobody").render_as_string(False))
    assert "s3cr" not in str(error.value)
