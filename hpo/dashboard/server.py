"""Dashboard server: serves the dashboard of a store only on this machine."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from hpo.config.optional_packages import refuse_missing
from hpo.dashboard.access_control import AccessControl
from hpo.errors import ConfigurationError, NoResultError
from hpo.store.database import Database
from hpo.store.studies import chosen_study

LOOPBACK = "127.0.0.1"
PORT = 8080
LOWEST_PORT = 1024
SILENCE_SECONDS = 60


class Server(ThreadingMixIn, WSGIServer):
    """A server with a thread for each request, so that slow requests do not delay others."""

    daemon_threads = True
    # Two servers on one port would take each other's requests.
    allow_reuse_port = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that closed its connection."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(WSGIRequestHandler):
    """A handler that keeps no log, which would contain the token, and closes silent connections."""

    timeout = SILENCE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the library's own name)
        """Keep no log."""


@contextmanager
def serving(
    database: Database, *, study: str | None = None, port: int = PORT, allow_changes: bool = False
) -> Iterator[tuple[Server, str]]:
    """Yield the server of a dashboard, whose `serve_forever` the caller calls, and the address that gives access.

    Args:
        database: the store.
        study: the study that the address opens; None for the only one, or for the list of studies.
        port: port on this machine, 1024 to 65535; 0 for any free port.
        allow_changes: true to allow writing notes and deleting studies.

    Raises:
        ConfigurationError: no such study, an unavailable port, or optuna-dashboard is not installed.
    """
    home = _home(database, study)
    for module in ("optuna_dashboard", "plotly"):
        refuse_missing(module, "hpo dashboard")
    from hpo.dashboard.routes import pages

    application = pages(database, allow_changes=allow_changes)
    with _bound(port) as server:
        guard = AccessControl(application, port=server.server_port, home=home, allow_changes=allow_changes)
        server.set_app(guard)
        yield server, guard.url


def _home(database: Database, study: str | None) -> str:
    """Return the path of the first page."""
    try:
        with database.read_transaction():
            study_id, _ = chosen_study(database, study)
    except (ConfigurationError, NoResultError):
        if study is not None:
            raise
        return "/dashboard"
    return f"/dashboard/studies/{study_id}"


def _bound(port: int) -> Server:
    if 0 < port < LOWEST_PORT:
        raise ConfigurationError(
            f"--port cannot be {port}: it must be from {LOWEST_PORT} to 65535, or 0 for any free port."
        )
    try:
        return Server((LOOPBACK, port), Handler)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        why = "is in use, perhaps by another dashboard" if in_use else f"cannot be opened: {error.strerror}"
        raise ConfigurationError(f"The port {port} {why}; give another --port, or 0 for any free port.") from None
