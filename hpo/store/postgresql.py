"""PostgreSQL store: bounded waits, no setting that outlives its transaction.

A connection that is cut gives no error; data sent into it may even be acknowledged by a device in between, so that no
TCP setting detects it. Hence each wait for an answer is bounded here. A transaction pooler such as PgBouncer gives
every transaction another session, so no setting and no prepared statement may belong to a session.
"""

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.waiting import Ready
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

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
