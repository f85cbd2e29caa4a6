"""A line to a server that can be cut: what is sent into it is then acknowledged and swallowed by either side."""

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.engine import make_url


class Line:
    """Between a port of this machine and a PostgreSQL server, whichever way that listens."""

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._whole = threading.Event()
        self._whole.set()
        self._front = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._others: dict[socket.socket, socket.socket] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the server is through this line."""
        port: int = self._front.getsockname()[1]
        through = self._server.difference_update_query(["host"]).set(host="127.0.0.1", port=port)
        return through.render_as_string(hide_password=False)

    def cut(self) -> None:
        """Swallow from now on whatever is sent, by either side."""
        self._whole.clear()

    def mend(self) -> None:
        """Carry again what is sent; what was swallowed is lost."""
        self._whole.set()

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        for one in (self._front, *self._others):
            one.close()

    def _carry(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._front:
                    self._take(self._front.accept()[0])
                elif isinstance(key.fileobj, socket.socket):
                    self._pass_on(key.fileobj)

    def _take(self, client: socket.socket) -> None:
        server = self._connected()
        for one, other in ((client, server), (server, client)):
            self._others[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _connected(self) -> socket.socket:
        folder = self._server.query.get("host")
        if folder is None:
            return socket.create_connection((str(self._server.host), self._server.port or 5432))
        made = socket.socket(socket.AF_UNIX)
        made.connect(f"{folder}/.s.PGSQL.{self._server.port or 5432}")
        return made

    def _pass_on(self, one: socket.socket) -> None:
        other = self._others[one]
        sent = b""
        with suppress(OSError):
            sent = one.recv(65536)
        if sent:
            if self._whole.is_set():
                with suppress(OSError):
                    other.sendall(sent)
            return
        self._selector.unregister(one)
        # The end of one side is swallowed too.
        if self._whole.is_set():
            with suppress(OSError):
                other.shutdown(socket.SHUT_WR)


@contextmanager
def line_to(url: str) -> Iterator[Line]:
    """Return a line to the server at `url`."""
    line = Line(url)
    try:
        yield line
    finally:
        line.close()
