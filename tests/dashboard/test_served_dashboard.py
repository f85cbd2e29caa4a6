"""`hpo dashboard` over a store: what it adds, what it lets through, and that it changes nothing by itself."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from hpo.dashboard.server import LOOPBACK, serving
from hpo.errors import ConfigurationError
from hpo.store.database import open_database
from tests.command_line import Hpo
from tests.dashboard.visiting import TRIALS, Visitor, dashboard_at, go_on, searched, searched_through
from tests.search.scripted import CPU, everything, led, plain_study, written

# Optuna's of how little there is to draw, which the command silences.
pytestmark = pytest.mark.filterwarnings("ignore:Target and region quantiles")
PAGES = (
    "/", "/dashboard", "/dashboard/studies/1", "/api/meta", "/api/studies", "/api/studies/1?after=0",
    "/api/studies/1/param_importances", "/api/studies/1/plot/contour", "/api/studies/1/plot/timeline", "/csv/1",
    "/incompatible-rdb-schema", "/favicon.ico", "/artifacts/1/1", "/artifacts/1/1/1", "/api/studies/99", "/csv/99",
)  # fmt: skip


@pytest.fixture
def url(database_url: str) -> str:
    searched_through(database_url)
    return database_url


@pytest.fixture
def visitor(url: str) -> Iterator[Visitor]:
    """Of a dashboard that only reads."""
    with dashboard_at(url) as address:
        yield Visitor(address)


@pytest.fixture
def writer(url: str) -> Iterator[Visitor]:
    """Of one that allows changes."""
    with dashboard_at(url, allow_changes=True) as address:
        yield Visitor(address)


def test_who_does_not_say_which_encodings_it_takes_is_answered(visitor: Visitor) -> None:
    connection = HTTPConnection(visitor.host, timeout=60)
    connection.putrequest("GET", "/favicon.ico", skip_accept_encoding=True)
    connection.putheader("Cookie", visitor.cookie)
    connection.endheaders()
    assert connection.getresponse().status == 200
    connection.close()


def test_pages_show_the_trials_with_notes_and_figures_of_hpo(visitor: Visitor) -> None:
    page = visitor.page()
    assert [trial["state"] for trial in page["trials"]] == ["Complete", "Complete", "Pruned", "Fail"]
    assert page["note"]["version"] == 0
    assert "## Best so far: trial " in page["note"]["body"]
    assert "Failed: 1 of 4 trials" in page["note"]["body"]
    notes = [trial["note"]["body"].partition(" at ")[0].partition(".**")[0] for trial in page["trials"]]
    assert notes == ["", "", "**Pruned", "**Failed"]
    drawn = {plot["id"]: plot["graph_object"] for plot in page["plotly_graph_objects"]}
    assert {"hpo-confusion_matrix", "hpo-learning_curves", "hpo-over_time"} <= drawn.keys()
    assert "on validation, in the search." in drawn["hpo-confusion_matrix"]
    assert all(len(figure) < 10_000 for figure in drawn.values())


def test_finished_trials_have_their_learning_curve_and_confusion_matrix_as_artifacts(visitor: Visitor) -> None:
    assert json.loads(visitor.ask("GET", "/api/meta")[2])["artifact_is_available"] is True
    completed, _, pruned, failed = visitor.page()["trials"]
    named = [artifact["filename"] for artifact in completed["artifacts"]]
    assert named == ["learning-curve-0.svg", "confusion-matrix-0.svg"]
    assert pruned["artifacts"][0]["filename"] == "learning-curve-2.svg"
    assert failed["artifacts"] == []
    for artifact in completed["artifacts"]:
        status, headers, body = visitor.ask("GET", f"/artifacts/1/{completed['trial_id']}/{artifact['artifact_id']}")
        assert (status, headers["Content-Type"], "<svg" in body) == (200, "image/svg+xml", True)
        assert headers["Content-Security-Policy"].startswith("sandbox;")
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/artifacts/1/1/99-0", "/artifacts/1/1/0-9", "/artifacts/1/4/3-0", "/artifacts/9/1/0-0"]
)
def test_a_picture_that_there_is_not_is_not_found(visitor: Visitor, path: str) -> None:
    assert visitor.ask("GET", path)[0] == 404


def test_a_trial_in_training_has_no_artifacts_as_these_could_be_deleted_on_its_page(url: str) -> None:
    with dashboard_at(url) as address, led(searched(url)) as coordinator:
        assert coordinator.next_assignment("one more", CPU) is not None
        trial = Visitor(address).page()["trials"][-1]
    assert (trial["state"], trial["artifacts"]) == ("Running", [])


def test_the_notes_are_made_anew_when_a_trial_has_ended(url: str) -> None:
    with dashboard_at(url) as address, led(searched(url)) as coordinator:
        visitor = Visitor(address)
        before = visitor.page()
        go_on(coordinator, "failed", "another")
        after = visitor.page()
    assert "The search is still running" in before["note"]["body"]
    assert "Failed: 2 of 5 trials" in after["note"]["body"]


def test_that_the_leader_has_left_is_seen_though_nothing_happened_since(url: str) -> None:
    with dashboard_at(url) as address:
        visitor = Visitor(address)
        with led(searched(url)) as coordinator:
            coordinator.end("finished")
            before = visitor.page()
        after = visitor.page()
    assert "The search is still running" in before["note"]["body"]
    assert "The search is still running" not in after["note"]["body"]


def test_no_page_writes_a_row(visitor: Visitor, url: str) -> None:
    before = everything(url)
    answers = {path: visitor.ask("GET", path)[0] for path in PAGES}
    assert {path for path, status in answers.items() if status >= 500} == set()
    assert answers["/api/studies/99"] == answers["/csv/99"] == 404
    assert everything(url) == before


def test_pages_are_read_while_another_writes(sqlite_url: str) -> None:
    searched_through(sqlite_url)
    engine = sa.create_engine(sqlite_url)
    with dashboard_at(sqlite_url) as address, closing(engine.raw_connection()) as writing:
        visitor = Visitor(address)
        writing.execute("BEGIN IMMEDIATE")  # type: ignore[attr-defined]
        assert len(visitor.page()["trials"]) == len(TRIALS)
        assert visitor.ask("GET", "/dashboard/studies/1")[0] == 200
        assert visitor.ask("GET", "/csv/1")[0] == 200
        writing.rollback()
    engine.dispose()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/trials/1/tell"),
        ("POST", "/api/artifacts/1"),
        ("POST", "/incompatible-rdb-schema"),
    ],
)
def test_without_allow_changes_nothing_can_be_changed(visitor: Visitor, url: str, method: str, path: str) -> None:
    before = everything(url)
    status, _, said = visitor.ask(method, path, {"version": 1, "body": "mine"})
    assert (status, "start it with hpo dashboard --allow-changes" in said) == (403, True)
    assert everything(url) == before


def test_who_has_not_the_cookie_or_names_another_host_sees_nothing(visitor: Visitor) -> None:
    assert visitor.reason("GET", "/api/studies", Host="evil.example")[0] == 403
    visitor.cookie = ""
    assert visitor.reason("GET", "/api/studies")[0] == 403


@pytest.mark.parametrize("path", ["/api/studies/1/note", "/api/studies/1/4/note"])
def test_a_note_of_the_users_own_is_kept_and_wins(writer: Visitor, path: str) -> None:
    def note() -> dict[str, object]:
        page = writer.page()
        found: dict[str, object] = page["note"] if path.endswith("1/note") else page["trials"][3]["note"]
        return found

    assert "Failed" in str(note()["body"])
    assert writer.ask("PUT", path, {"version": 1, "body": "mine"})[0] == 204
    assert note() == {"version": 1, "body": "mine"}
    status, reason = writer.reason("PUT", path, {"version": 1, "body": "another's"})
    assert (status, "has changed" in reason) == (409, True)
    assert writer.ask("PUT", path, {"version": 2, "body": ""})[0] == 204
    assert note() == {"version": 2, "body": ""}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/studies", {"study_name": "new", "directions": ["maximize"]}),
        ("/api/studies/1/rename", {"study_name": "other"}),
        ("/api/trials/1/tell", {"state": "complete", "values": [1.0]}),
        ("/api/trials/1/user-attrs", {"user_attrs": {"validation_macro_f1": 1.0}}),
        ("/api/studies/1/preference", {"mode": "ChooseWorst", "candidates": [0], "clicked": 0}),
        ("/api/artifacts/1", {"file": "data:text/html,x", "filename": "x.html"}),
        ("/api/artifacts/1/1", {"file": "data:text/html,x", "filename": "x.html"}),
        ("/incompatible-rdb-schema", {}),
    ],
)
def test_what_a_search_alone_may_write_is_refused_even_with_allow_changes(
    writer: Visitor, url: str, path: str, body: dict[str, object]
) -> None:
    before = everything(url)
    status, _, said = writer.ask("POST", path, body)
    assert (status, "can only change notes and delete studies" in said) == (403, True)
    assert everything(url) == before


def test_a_study_is_deleted_with_all_its_rows(writer: Visitor, url: str) -> None:
    assert writer.reason("DELETE", "/api/studies/1", Origin="http://localhost:1")[0] == 403
    assert writer.ask("DELETE", "/api/studies/1")[0] == 204
    left = {name for name, rows in everything(url).items() if rows}
    assert not {"studies", "trials", "hpo_studies", "hpo_attempts", "hpo_evaluations", "hpo_events"} & left
    assert writer.reason("DELETE", "/api/studies/1") == (404, "The store does not contain this study or trial.")


def test_a_study_is_not_deleted_while_it_is_searched(writer: Visitor, url: str) -> None:
    with led(searched(url)):
        status, reason = writer.reason("DELETE", "/api/studies/1")
    assert (status, "end that search first" in reason) == (409, True)
    assert len(writer.page()["trials"]) == len(TRIALS)


def test_a_study_of_plain_optuna_is_shown_as_it_is(sqlite_url: str) -> None:
    import optuna

    storage = optuna.storages.RDBStorage(sqlite_url)
    optuna.create_study(study_name="plain", storage=storage).optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
    storage.remove_session()
    storage.engine.dispose()
    with dashboard_at(sqlite_url) as address:
        page = Visitor(address).page()
    assert len(page["trials"]) == 2
    assert "hpo has nothing to add: The study 'plain' was not made by hpo" in page["note"]["body"]


def test_notes_by_optunas_own_function_are_shown_instead(url: str) -> None:
    from optuna_dashboard import save_note

    with plain_study(url) as study:
        save_note(study, "by hand")
    with dashboard_at(url) as address:
        assert Visitor(address).page()["note"] == {"version": 1, "body": "by hand"}


def test_the_address_leads_to_the_study_that_is_meant(url: str) -> None:
    for study in ("scripted", None):
        with dashboard_at(url, study=study) as address:
            assert Visitor(address).home == "/dashboard/studies/1"
    with pytest.raises(ConfigurationError, match="no study 'nine'"), dashboard_at(url, study="nine"):
        pass


def test_an_empty_store_has_an_empty_list(sqlite_url: str) -> None:
    with dashboard_at(sqlite_url) as address:
        assert Visitor(address).ask("GET", "/api/studies")[2] == '{"study_summaries": []}'


def test_it_listens_on_this_machine_alone(sqlite_url: str) -> None:
    database = open_database(sqlite_url)
    with closing(database), serving(database, port=0) as (server, url):
        assert server.socket.getsockname()[0] == "127.0.0.1"
        assert url.startswith(f"http://127.0.0.1:{server.server_port}/?token=")


def refused(hpo: Hpo, *words: object) -> tuple[int, str]:
    """Return (exit code, sentence) of `hpo dashboard` with these words."""
    code, out, err = hpo("dashboard", *words)
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    return code, err


def test_each_reason_not_to_open_is_one_sentence(
    sqlite_url: str, tmp_path: Path, hpo: Hpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = partial(refused, hpo)
    at = ("--store", sqlite_url)
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        assert said(*at, "--port", port) == (2, f"hpo: The port {port} is in use, perhaps by another dashboard; give "
            "another --port, or 0 for any free port.\n")  # fmt: skip
    assert said(*at, "--port", 80) == (2, "hpo: --port cannot be 80: it must be from 1024 to 65535, or 0 for any free "
        "port.\n")  # fmt: skip
    assert said(*at, "--study", "nine")[1].startswith("hpo: The store holds no study")
    code, words = said("--store", f"sqlite:///{tmp_path / 'none.db'}")
    assert (code, "There is no store at" in words, (tmp_path / "none.db").exists()) == (3, True, False)
    (tmp_path / "text.db").write_text("no database, but long enough to be one")
    assert "is no SQLite database" in said("--store", f"sqlite:///{tmp_path / 'text.db'}")[1]
    monkeypatch.delitem(sys.modules, "hpo.dashboard.routes", raising=False)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert said(*at) == (2, "hpo: hpo dashboard needs optuna-dashboard: pip install "
        "'llm-hpo[dashboard]'.\n")  # fmt: skip


def test_a_store_of_a_newer_version_is_refused(sqlite_url: str, hpo: Hpo) -> None:
    written(sqlite_url, "UPDATE hpo_alembic_version SET version_num = '9999'")
    code, words = refused(hpo, "--store", sqlite_url)
    assert (code, "newer" in words) == (3, True), words


def test_a_password_is_never_said(postgresql_url: str, hpo: Hpo) -> None:
    wrong = make_url(postgresql_url).set(username="nobody", password="geheim", host="127.0.0.1", port=1, query={})
    code, words = refused(hpo, "--store", wrong.render_as_string(hide_password=False))
    assert (code, "geheim" in words) == (3, False)


def test_the_command_prints_the_address_and_ends_at_ctrl_c(
    sqlite_url: str, hpo: Hpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpo.dashboard.server.Server.serve_forever", interrupted)
    answer = hpo("dashboard", "--store", sqlite_url, "--port", "0")
    first, address, last = answer.out.splitlines()
    assert answer.code == 0
    assert "it is read-only" in first
    assert address.startswith("http://127.0.0.1:")
    assert last == "The dashboard is closed."
