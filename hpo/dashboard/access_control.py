"""Access control of the dashboard: a WSGI wrapper that only admits browsers that opened the printed address.

A page of another site can make a browser send requests to this server, under any host name. So a request must have a
host name of this machine, the token or the cookie that replaced it, and no sign of another site. A request that changes
something must also have an Origin header of this server.
"""

import json
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOSTS = ("127.0.0.1", "localhost", "[::1]")
READING = ("GET", "HEAD", "OPTIONS")
PAGE_POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; frame-ancestors 'none'; "
    "img-src 'self' data: blob:; style-src 'self' data: 'unsafe-inline'; "
    # Plotly's parallel coordinates generate code at run time.
    "script-src 'self' 'unsafe-eval'"
)
# Anything but a page, such as an artifact of a trial, gets no origin and runs no script.
ELSEWHERE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
EVERYWHERE = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class AccessControl:
    """A WSGI application that passes requests on to another one, or answers 403 with a sentence.

    Args:
        application: the guarded application.
        port: the port that it is served on.
        home: path of the page that the printed address opens.
        allow_changes: true to allow other methods than GET, HEAD and OPTIONS.
    """

    def __init__(
        self, application: "WSGIApplication", *, port: int, home: str = "/", allow_changes: bool = False
    ) -> None:
        self._application, self._home, self._allow_changes = application, home, allow_changes
        self._token = secrets.token_urlsafe(32)
        self._hosts = tuple(f"{host}:{port}" for host in HOSTS)
        self._origins = tuple(f"http://{host}" for host in self._hosts)
        # Browsers keep one set of cookies for all ports of a host.
        self._cookie = f"hpo_dashboard_{port}"
        self.url = f"http://{self._hosts[0]}/?token={self._token}"

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        start = _with_headers(start_response, environ.get("PATH_INFO", ""))
        if reason := self._foreign_reason(environ):
            return _refused(environ, start, reason)
        if self._brings_token(environ):
            return self._welcomed(start)
        if not self._has_cookie(environ):
            return _refused(environ, start, "Open the address that hpo dashboard printed; only that gives access.")
        if reason := self._forbidden_change(environ):
            return _refused(environ, start, reason)
        # optuna-dashboard fails on a request without this header.
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        return self._application(environ, start)

    def _foreign_reason(self, environ: "WSGIEnvironment") -> str | None:
        """Return why a request is not from this server's own pages or its user; None if it is."""
        if environ.get("HTTP_HOST") not in self._hosts:
            return (
                f"This dashboard answers only at {' or '.join(self._hosts)}; through a tunnel, use the same port on "
                "both sides."
            )
        opened = (environ.get("HTTP_SEC_FETCH_MODE"), environ.get("HTTP_SEC_FETCH_DEST")) == ("navigate", "document")
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin") and not opened:
            return "Only the dashboard's own pages may request this, but a page of another site did."
        if environ.get("HTTP_ORIGIN", self._origins[0]) not in self._origins:
            return "Only the dashboard's own pages may request this, but a page of another origin did."
        return None

    def _brings_token(self, environ: "WSGIEnvironment") -> bool:
        given = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0]
        return environ["REQUEST_METHOD"] == "GET" and _same(given, self._token)

    def _has_cookie(self, environ: "WSGIEnvironment") -> bool:
        # Not by http.cookies, which drops all cookies if another server of this host has set a malformed one.
        cookies = environ.get("HTTP_COOKIE", "").split(";")
        return any(_same(cookie.strip(), f"{self._cookie}={self._token}") for cookie in cookies)

    def _welcomed(self, start_response: "StartResponse") -> Iterable[bytes]:
        """Exchange the token for a cookie, and redirect to an address without it.

        Not by status 303, after which a browser that followed a link on another site would not send a strict cookie.
        """
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        headers = [("Set-Cookie", cookie), ("Refresh", f"0; url={self._home}")]
        return _answered(start_response, "200 OK", "text/plain", "Opening the dashboard.", headers)

    def _forbidden_change(self, environ: "WSGIEnvironment") -> str | None:
        if environ["REQUEST_METHOD"] in READING:
            return None
        if not self._allow_changes:
            return "This dashboard is read-only; start it with hpo dashboard --allow-changes to change something."
        if environ.get("HTTP_ORIGIN") not in self._origins:
            return "Only the dashboard's own pages may change something, but this request came from elsewhere."
        return None


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode(), expected.encode())


def _with_headers(start_response: "StartResponse", path: str) -> "StartResponse":
    """Return `start_response` with security headers added."""
    is_page = path in ("", "/", "/dashboard") or path.startswith("/dashboard/")
    ours = EVERYWHERE | {"Content-Security-Policy": PAGE_POLICY if is_page else ELSEWHERE_POLICY}
    replaced = {name.lower() for name in ours}

    def start(status: str, headers: list[tuple[str, str]], *error: object) -> Callable[[bytes], object]:
        kept = [
            (name, value)
            for name, value in headers
            if name.lower() not in replaced and not name.lower().startswith("access-control-")
        ]
        return start_response(status, [*kept, *ours.items()], *error)  # type: ignore[arg-type]

    return start


def _refused(environ: "WSGIEnvironment", start_response: "StartResponse", reason: str) -> Iterable[bytes]:
    """Answer 403 with the reason, as JSON for the dashboard's pages, or as text."""
    if environ.get("PATH_INFO", "").startswith("/api/"):
        return _answered(start_response, "403 Forbidden", "application/json", json.dumps({"reason": reason}))
    return _answered(start_response, "403 Forbidden", "text/plain", reason)


def _answered(
    start_response: "StartResponse", status: str, kind: str, text: str, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start_response(status, [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body))), *headers])
    return [body]
