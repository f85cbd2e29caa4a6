"""PostgreSQL store: no wait without end, no setting that outlives its transaction, no password for workers.

A line that is cut says nothing: what is sent into it may even be acknowledged, by whatever stands in between, so that
no setting of TCP notices. Hence each wait for an answer is bounded here. And whoever pools connections by transaction,
as PgBouncer does, hands every transaction another session: nothing is set for one, and no statement is prepared in it.
"""

import json
import re
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote, unquote_plus

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.waiting import Ready
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

PASSWORD = "PGPASSWORD"
"""Variable in which PostgreSQL's own library looks for a password that no URL holds."""
NEEDED = frozenset({"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "USER", "LOGNAME", "TMPDIR"})
"""Variables without which a process may not start; what is part of a path is no secret."""
STRONG, LONG = 8, 16
"""Characters from which a password, or one of letters alone, is recognised wherever it stands: a shorter one is part of
many words."""


def secret_names(environment: Mapping[str, str], store: str) -> frozenset[str]:
    """Return the names of the variables that hold a password of the store at the URL `store`, or that of `PGPASSWORD`.

    A weak password counts where it is all of a value, or is written as a password: in a URL, or after `password=`.
    """
    passwords = _passwords_of(store) | {environment.get(PASSWORD, "")} - {""}
    holding = {name for name, value in environment.items() if any(_holds(value, one) for one in passwords)}
    return frozenset(holding - NEEDED | {PASSWORD} & environment.keys())


def _passwords_of(store: str) -> set[str]:
    # Whoever carries messages imports this, and opens no store.
    from hpo.store.database import parsed_url

    url = parsed_url(store)
    asked = [value for name in ("password", "sslpassword") for value in url.normalized_query.get(name, ())]
    return {one for one in (str(url.password or ""), *asked) if one}


def _holds(value: str, password: str) -> bool:
    """Return whether `password` is in `value`, as it is or escaped as in a URL or in JSON."""
    forms = {password, json.dumps(password)[1:-1]}
    return any(_stands_in(text, form) for text in {value, unquote(value), unquote_plus(value)} for form in forms)


def _stands_in(text: str, form: str) -> bool:
    if len(form) >= (LONG if form.isalpha() else STRONG):
        return form in text
    word = re.escape(form)
    return text == form or bool(re.search(rf"//[^/@\s]*:{word}@|(?i:passw(or)?d|pwd)\W{{1,4}}{word}(?!\w)", text))


CONNECT_SECONDS, ANSWER_SECONDS = 10, 15.0
"""For which a server that says nothing is waited for: until it takes a connection, and until it answers a statement."""
HURRIED_SECONDS = 4
"""The same for a search that is to end."""
IDLE_SECONDS = 90
"""After which the server ends a transaction in which nothing is asked; a sampler may take long to propose in one."""
TCP = {
    "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000,
}  # fmt: skip
"""By which the kernel notices a line that acknowledges nothing, seconds but for the last: milliseconds."""

Result = TypeVar("Result")


def engine_of(url: URL, is_ending: Callable[[], bool], **options: Any) -> Engine:
    """Return an engine for the server at `url`, whose answers are waited for less long once `is_ending` says so."""

    class Bounded(BoundedConnection):
        hurries = staticmethod(is_ending)

    def connected(_dialect: object, _record: object, words: list[Any], settings: dict[str, Any]) -> BoundedConnection:
        seconds = HURRIED_SECONDS if is_ending() else CONNECT_SECONDS
        known = TCP | {"connect_timeout": seconds, "prepare_threshold": None}
        return Bounded.connect(*words, **(known | settings))

    engine = sa.create_engine(url, pool_pre_ping=True, **options)
    event.listen(engine, "do_connect", connected)
    event.listen(engine, "begin", _limit_idleness)
    return engine


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed where a statement is not answered in time."""

    hurries: Callable[[], bool] = staticmethod(lambda: False)

    def wait(self, gen: PQGen[Result], *args: Any, **kwargs: Any) -> Result:
        """Return what `gen` returns, as psycopg does.

        Raises:
            OperationalError: the server has said nothing for `ANSWER_SECONDS`; the connection is closed then.
        """
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: PQGen[Result]) -> Generator[Any, Any, Result]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                seconds = HURRIED_SECONDS if self.hurries() else ANSWER_SECONDS
                if ready != Ready.NONE:
                    heard = time.monotonic()
                elif time.monotonic() - heard > seconds:
                    self.close()
                    raise psycopg.OperationalError(f"it did not answer for {seconds:g} seconds")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result


def _limit_idleness(connection: Connection) -> None:
    """Let the server end a transaction whose process was suspended or cut off: it would hold the lease's row for good.

    For this transaction alone: the session may be another's in the next.
    """
    connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
