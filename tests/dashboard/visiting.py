"""A visitor of a served dashboard without a browser, and a search that goes on a trial at a time when told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from hpo.config.study_file import StudyConfig
from hpo.dashboard.server import Server, serving
from hpo.messages import Ending
from hpo.store.database import open_database
from tests.search.scripted import CPU, ended, led, study_at, train

if TYPE_CHECKING:
    from hpo.search.coordinator import Coordinator

HOSTILE = 'ValueError: <img src=x onerror="document.title=1"> [x](http://evil.example) *b* `c`'
TRIALS = ("completed", "completed", "pruned", "failed")


class Visitor:
    """Asks a served dashboard, which lets it in by its cookie."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.origin, _, self.token = url.partition("/?")
        self.host = self.origin.removeprefix("http://")
        self.cookie = ""
        welcome = self.ask("GET", f"/?{self.token}")[1]
        self.home = welcome["Refresh"].partition("url=")[2]
        self.cookie = welcome["Set-Cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
        """Return (status, headers, body) of the answer."""
        connection = HTTPConnection(self.host, timeout=60)
        try:
            sent = {"Cookie": self.cookie, "Origin": self.origin, "Content-Type": "application/json"} | headers
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
        finally:
            connection.close()

    def page(self, study: int = 1) -> dict[str, Any]:
        """Return what the pages of a study are told."""
        status, _, body = self.ask("GET", f"/api/studies/{study}?after=0")
        assert status == 200, body
        told: dict[str, Any] = json.loads(body)
        return told

    def reason(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Return (status, sentence) of a refusal."""
        status, _, said = self.ask(method, path, body, **headers)
        return status, json.loads(said)["reason"]


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def dashboard_at(url: str, *, study: str | None = None, allow_changes: bool = False) -> Iterator[str]:
    """Serve the dashboard of the store at `url`; give the address that lets one in."""
    database = open_database(url)
    try:
        with serving(database, study=study, port=0, allow_changes=allow_changes) as (server, address), running(server):
            yield address
    finally:
        database.close()


def searched(url: str) -> StudyConfig:
    """Return a study that prunes at its second rung what is worse than the median."""
    search = {"sampler": "random", "pruner": "median", "pruner_startup_trials": 1}
    return study_at(url, budget={"trials": 30}, search=search)


def go_on(coordinator: "Coordinator", kind: str, request: str) -> None:
    """Begin a trial and bring it to its end: completed, pruned or failed."""
    assignment = coordinator.next_assignment(request, CPU)
    assert assignment is not None
    if kind == "failed":
        coordinator.finish(ended(assignment, Ending.FAILED, reason=HOSTILE))
        return
    heights = {"completed": 0.9, "pruned": 0.1}
    outcome = train(coordinator, assignment, lambda assignment, rung: heights[kind] * rung / 1000)
    assert str(outcome.ending) == kind


def search_when_told(url: str, told: Connection) -> None:
    """Lead a study, a trial of the kind that is told each time, and say when that is over; until told to end."""
    with led(searched(url)) as coordinator:
        told.send("leads")
        for number, kind in enumerate(iter(told.recv, "end")):
            go_on(coordinator, kind, f"request-{number}")
            told.send(kind)


def searched_through(url: str) -> None:
    """Leave a study in the store whose trials ended as `TRIALS` says."""
    with led(searched(url)) as coordinator:
        for number, kind in enumerate(TRIALS):
            go_on(coordinator, kind, f"request-{number}")
