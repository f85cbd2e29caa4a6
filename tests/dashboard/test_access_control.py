"""The guard of the dashboard lets in who brings the token or its cookie, by this server's own name, and nobody else."""

import json
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest

from hpo.dashboard.access_control import EVERYWHERE, AccessControl

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PORT = 8080
HERE = f"127.0.0.1:{PORT}"


class Answer:
    """What one request was answered."""

    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = int(status.split()[0]), dict(headers), body.decode()


def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    headers = [("Content-Type", "text/html"), ("Access-Control-Allow-Origin", "*"), ("content-security-policy", "own")]
    start_response("200 OK", headers)
    return [b"inside"]


def asked(
    guard: AccessControl, path: str = "/dashboard", *, method: str = "GET", host: str = HERE, **more: str
) -> Answer:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    path, _, query = path.partition("?")
    environ |= {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": method, "wsgi.input": BytesIO()}
    environ |= {"HTTP_HOST": host, **more}
    begun: list[Any] = []
    body = b"".join(guard(environ, lambda *start: begun.extend(start)))  # type: ignore[arg-type, func-returns-value]
    return Answer(begun[0], begun[1], body)


def token_of(guard: AccessControl) -> str:
    return guard.url.partition("/?")[2]


def cookie_of(guard: AccessControl) -> str:
    return asked(guard, f"/?{token_of(guard)}").headers["Set-Cookie"].partition(";")[0]


@pytest.fixture
def guard() -> AccessControl:
    return AccessControl(guarded, port=PORT, home="/dashboard/studies/1")


def test_the_printed_address_gives_a_strict_cookie_and_leads_on_without_the_token(guard: AccessControl) -> None:
    answer = asked(guard, f"/?{token_of(guard)}")
    assert answer.status == 200
    assert answer.headers["Refresh"] == "0; url=/dashboard/studies/1"
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert name.startswith(f"hpo_dashboard_{PORT}=")
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Strict"]
    assert "inside" not in answer.body
    assert asked(guard, HTTP_COOKIE=cookie_of(guard)).body == "inside"


def test_tokens_are_long_and_never_the_same() -> None:
    tokens = {token_of(AccessControl(guarded, port=PORT)) for _ in range(20)}
    assert len(tokens) == 20
    assert all(len(token) >= len("token=") + 43 for token in tokens)


@pytest.mark.parametrize("cookie", ["", "hpo_dashboard_8080=", "hpo_dashboard_8080=wrong", "hpo_dashboard_8080=é", "x"])
@pytest.mark.parametrize("path", ["/", "/dashboard", "/static/bundle.js", "/api/studies", "/?token=wrong", "/?token=é"])
def test_nothing_is_shown_without_the_cookie(guard: AccessControl, path: str, cookie: str) -> None:
    answer = asked(guard, path, HTTP_COOKIE=cookie)
    assert (answer.status, "inside" in answer.body) == (403, False)
    assert "Open the address that hpo dashboard printed" in answer.body


def test_the_cookie_is_found_among_odd_ones_of_other_servers(guard: AccessControl) -> None:
    assert asked(guard, HTTP_COOKIE=f'a[b]={{"c": 1}}; ;=; {cookie_of(guard)}; d="').status == 200


def test_a_token_or_cookie_of_another_run_is_refused(guard: AccessControl) -> None:
    other = AccessControl(guarded, port=PORT)
    assert asked(guard, HTTP_COOKIE=cookie_of(other)).status == 403
    assert asked(guard, f"/?{token_of(other)}").status == 403


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
def test_a_token_is_exchanged_by_get_alone(guard: AccessControl, method: str) -> None:
    assert "Set-Cookie" not in asked(guard, f"/?{token_of(guard)}", method=method).headers


@pytest.mark.parametrize("host", [HERE, f"localhost:{PORT}", f"[::1]:{PORT}"])
def test_each_name_of_this_machine_with_the_port_is_served(guard: AccessControl, host: str) -> None:
    assert asked(guard, host=host, HTTP_COOKIE=cookie_of(guard)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "localhost:9999", f"127.0.0.1.evil.example:{PORT}", ""],
)
def test_another_host_is_refused_with_token_and_cookie(guard: AccessControl, host: str) -> None:
    for path in ("/dashboard", f"/?{token_of(guard)}"):
        answer = asked(guard, path, host=host, HTTP_COOKIE=cookie_of(guard))
        assert (answer.status, "Set-Cookie" in answer.headers) == (403, False)
        assert f"This dashboard answers only at {HERE}" in answer.body


def test_a_request_without_a_host_is_refused(guard: AccessControl) -> None:
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_COOKIE": cookie_of(guard)}
    begun: list[str] = []
    list(guard(environ, lambda *start: begun.append(start[0])))  # type: ignore[arg-type, func-returns-value, misc]
    assert begun == ["403 Forbidden"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_sites_page_embeds_is_refused_but_its_link_is_followed(guard: AccessControl, site: str) -> None:
    """A page on another port of this machine is of the same site, so a strict cookie comes with what it asks for."""
    ours = {"HTTP_COOKIE": cookie_of(guard), "HTTP_SEC_FETCH_SITE": site}
    for mode, destination in (("no-cors", "script"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "image")):
        answer = asked(guard, **ours, HTTP_SEC_FETCH_MODE=mode, HTTP_SEC_FETCH_DEST=destination)
        assert (answer.status, "inside" in answer.body) == (403, False), (mode, destination)
    assert asked(guard, **ours, HTTP_SEC_FETCH_MODE="navigate", HTTP_SEC_FETCH_DEST="document").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "delete", "PROPFIND"])
def test_a_guard_that_only_reads_lets_no_change_through(guard: AccessControl, method: str) -> None:
    ours = {"HTTP_COOKIE": cookie_of(guard), "HTTP_ORIGIN": f"http://{HERE}"}
    answer = asked(guard, "/api/studies/1", method=method, **ours)
    assert answer.status == 403
    assert json.loads(answer.body)["reason"].startswith("This dashboard is read-only; start it with")
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_needs_no_origin(guard: AccessControl, method: str) -> None:
    assert asked(guard, method=method, HTTP_COOKIE=cookie_of(guard)).status == 200


def test_a_change_that_is_allowed_must_come_from_a_page_of_this_server() -> None:
    guard = AccessControl(guarded, port=PORT, allow_changes=True)
    ours = {"HTTP_COOKIE": cookie_of(guard)}
    for origin in (f"http://{HERE}", f"http://localhost:{PORT}", f"http://[::1]:{PORT}"):
        assert asked(guard, "/api/studies/1", method="DELETE", **ours, HTTP_ORIGIN=origin).status == 200
    for origin in (
        "null",
        "",
        "http://localhost:9999",
        f"https://{HERE}",
        "http://evil.example",
        f"http://{HERE}.evil",
    ):
        for method in ("DELETE", "GET"):
            answer = asked(guard, "/api/studies/1", method=method, **ours, HTTP_ORIGIN=origin)
            assert (answer.status, "a page of another origin did" in answer.body) == (403, True), origin
    assert "came from elsewhere" in asked(guard, "/api/studies/1", method="DELETE", **ours).body
    assert asked(guard, "/api/studies/1", method="DELETE", HTTP_ORIGIN=f"http://{HERE}").status == 403


@pytest.mark.parametrize("path", ["/", "/dashboard", "/dashboard/studies/1", "/api/studies", "/artifacts/1/2", "/none"])
def test_every_answer_has_the_headers_that_close_it_in(guard: AccessControl, path: str) -> None:
    for answer in (asked(guard, path, HTTP_COOKIE=cookie_of(guard)), asked(guard, path), asked(guard, path, host="x")):
        assert EVERYWHERE.items() <= answer.headers.items()
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert not {"Access-Control-Allow-Origin", "content-security-policy"} & set(answer.headers)


@pytest.mark.parametrize("path", ["/artifacts/1/2", "//artifacts/1/2", "/artifacts/1/2/3", "/static/x", "/dashboards"])
def test_all_but_the_dashboards_own_pages_are_sandboxed(guard: AccessControl, path: str) -> None:
    policy = asked(guard, path, HTTP_COOKIE=cookie_of(guard)).headers["Content-Security-Policy"]
    assert policy.startswith("sandbox; default-src 'none'; ")


def test_a_page_of_the_dashboard_may_ask_no_other_host(guard: AccessControl) -> None:
    policy = asked(guard, HTTP_COOKIE=cookie_of(guard)).headers["Content-Security-Policy"]
    assert "sandbox" not in policy
    sources = {word for directive in policy.split(";") for word in directive.split()[1:]}
    assert sources <= {"'self'", "'none'", "data:", "blob:", "'unsafe-inline'", "'unsafe-eval'"}
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
