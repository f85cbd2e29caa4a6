"""PostgreSQL store: bounded waits, no setting that outlives its transaction, no password for workers.

A connection that is cut gives no error; data sent into it may even be acknowledged by a device in between, so that no
TCP setting detects it. Hence each wait for an answer is bounded here. A transaction pooler such as PgBouncer gives
every transaction another session, so no setting and no prepared statement may belong to a session.
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
"""Variable in which PostgreSQL's own library looks for a password that is not in the URL."""
NEEDED = frozenset({"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "HOME", "USER", "LOGNAME", "TMPDIR"})
"""Variables without which a process may not start; parts of paths are not secrets."""
STRONG, LONG = 8, 16
"""Length from which a password, or one of letters only, is recognised anywhere in a value: shorter ones are parts of
many words."""


def secret_names(environment: Mapping[str, str], store: str) -> frozenset[str]:
    """Return the names of the variables that contain a password of the URL `store`, or that of `PGPASSWORD`.

    A weak password counts only if it is the whole value, or is written as a password: in a URL, or after `password=`.
    """
    passwords = _passwords_of(store) | {environment.get(PASSWORD, "")} - {""}
    holding = {name for name, value in environment.items() if any(_holds(value, one) for one in passwords)}
    return frozenset(holding - NEEDED | {PASSWORD} & environment.keys())


def _passwords_of(store: str) -> set[str]:
    # Processes that only pass messages import this, and open no store.
    from hpo.store.database import parsed_url

    url = parsed_url(store)
    asked = [value for name in ("password", "sslpassword") for value in url.normalized_query.get(name, ())]
    return {one for one in (str(url.password or ""), *asked) if one}


def _holds(value: str, password: str) -> bool:
    """Return true if `password` is in `value`, as it is or escaped as in a URL or in JSON."""
    forms = {password, json.dumps(password)[1:-1]}
    return any(_stands_in(text, form) for text in {value, unquote(value), unquote_plus(value)} for form in forms)


def _stands_in(text: str, form: str) -> bool:
    if len(form) >= (LONG if form.isalpha() else STRONG):
        return form in text
    word = re.escape(form)
    return text == form or bool(re.search(rf"//[^/@\s]*:{word}@|(?i:passw(or)?d|pwd)\W{{1,4}}{word}(?!\w)", text))


CONNECT_SECONDS, ANSWER_SECONDS = 10, 15.0
"""Seconds to wait for a silent server: until it accepts a connection, and until it answers a statement."""
ENDING_ANSWER_SECONDS = 4
"""The same for a search that is to end."""
IDLE_SECONDS = 90
"""Seconds after which the server ends an idle transaction; a sampler may take long to propose in one."""
TCP = {
    "keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000,
}  # fmt: skip
"""TCP keepalive settings, by which the kernel detects a dead connection; seconds, the last in milliseconds."""

Result = TypeVar("Result")


def engine_of(url: URL, is_ending: Callable[[], bool], **options: Any) -> Engine:
    """Return an engine for the server at `url`, which waits less long for answers once `is_ending` returns true."""

    class Bounded(BoundedConnection):
        must_end = staticmethod(is_ending)

    def connected(_dialect: object, _record: object, words: list[Any], settings: dict[str, Any]) -> BoundedConnection:
        seconds = ENDING_ANSWER_SECONDS if is_ending() else CONNECT_SECONDS
        known = TCP | {"connect_timeout": seconds, "prepare_threshold": None}
        return Bounded.connect(*words, **(known | settings))

    engine = sa.create_engine(url, pool_pre_ping=True, **options)
    event.listen(engine, "do_connect", connected)
    event.listen(engine, "begin", _limit_idleness)
    return engine


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed if a statement is not answered in time."""

    must_end: Callable[[], bool] = staticmethod(lambda: False)

    def wait(self, gen: PQGen[Result], *args: Any, **kwargs: Any) -> Result:
        """Return the result of `gen`, as psycopg does.

        Raises:
            OperationalError: the server has not answered for `ANSWER_SECONDS`; the connection is then closed.
        """
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: PQGen[Result]) -> Generator[Any, Any, Result]:
        answered_at = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                seconds = ENDING_ANSWER_SECONDS if self.must_end() else ANSWER_SECONDS
                if ready != Ready.NONE:
                    answered_at = time.monotonic()
                elif time.monotonic() - answered_at > seconds:
                    self.close()
                    raise psycopg.OperationalError(f"it did not answer for {seconds:g} seconds")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result


def _limit_idleness(connection: Connection) -> None:
    """Let the server end a transaction whose process was suspended or cut off: it would lock the lease's row.

    Only for this transaction, because the session may serve another client next.
    """
    connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
