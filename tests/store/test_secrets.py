"""No process of a worker finds the store's password in its environment, in whatever form; what it needs it keeps."""

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from hpo.store.secrets import NEEDED, secret_names


def store_of(password: str) -> str:
    return URL.create("postgresql+psycopg", "me", password, "db.example.org", 5432, "hpo").render_as_string(False)


FORMS = {
    "another url": "postgresql://other:{quoted}@elsewhere/other?sslmode=require",
    "its query": "postgresql://elsewhere/other?user=me&password={plus}",
    "words of libpq": "host=elsewhere user=me password={plain}",
    "by itself": "{plain}",
    "escaped by itself": "{quoted}",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("password", ["p@ss/w:rd#1", "pw", "lib", "1", "postgres", "100% sure + safe", 'quo"te\\s'])
def test_a_password_is_found_in_every_form(password: str, form: str) -> None:
    value = FORMS[form].format(plain=password, quoted=quote(password, safe=""), plus=quote_plus(password))
    assert secret_names({"STORE": value, "HOST": "elsewhere"}, store_of(password)) == {"STORE"}


@given(password=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1))
def test_a_random_password_is_found_in_a_url(password: str) -> None:
    assert "STORE" in secret_names({"STORE": store_of(password)}, store_of(password))


@pytest.mark.parametrize(
    "store", ["run", "bin", "sqlite:///lib.db", "postgresql://me@host/bin", "postgresql://me:@host/lib"]
)
def test_the_name_of_a_store_is_no_secret(store: str) -> None:
    environment = {"PATH": "/usr/bin:/run/bin", "LD_LIBRARY_PATH": "/usr/lib", "RUN": "run", "EMPTY": ""}
    assert secret_names(environment, store) == set()


@pytest.mark.parametrize("password", ["b", "bin", "lib", "postgres", "/usr/lib/postgresql/16/bin"])
def test_a_process_keeps_what_it_needs_to_start(password: str) -> None:
    environment = dict.fromkeys(NEEDED, "/usr/lib/postgresql/16/bin") | {"MODULES": "/opt/bin/lib:/home/postgres"}
    assert secret_names(environment, store_of(password)) <= {"MODULES"} & {password}


def test_a_password_that_only_libpq_knows_is_found_elsewhere_too() -> None:
    environment = {"PGPASSWORD": "s3cret-word", "DATABASE": "postgresql://me:s3cret-word@host/db", "USER": "me"}
    assert secret_names(environment, "postgresql://me@host/db") == {"PGPASSWORD", "DATABASE"}
