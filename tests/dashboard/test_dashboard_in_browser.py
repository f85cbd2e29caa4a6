"""The dashboard in Chromium: it follows a search that runs, and gives nothing to a page of another origin."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from hpo.dashboard.access_control import AccessControl
from hpo.dashboard.server import LOOPBACK, Handler, Server
from tests.browser import asked_for, browser, needs_browser, said
from tests.dashboard.visiting import HOSTILE, Visitor, dashboard_at, running, search_when_told, searched_through
from tests.search.scripted import everything

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

# Optuna's of how little there is to draw, which the command silences.
pytestmark = [needs_browser, pytest.mark.filterwarnings("ignore:Target and region quantiles")]
SECONDS = 30
ATTACK = """
    const told = arguments[0], done = arguments[arguments.length - 1];
    const tried = (what, asked) => asked.then(answer => answer.text()).then(
        text => [what, text], () => [what, "refused"]);
    const one = told + "/api/studies/1";
    const embedded = tag => new Promise(resolve => {
        const element = document.createElement(tag);
        element.onload = () => resolve([tag, "loaded"]);
        element.onerror = () => resolve([tag, "refused"]);
        element.src = one;
        document.body.append(element);
    });
    Promise.all([
        tried("read", fetch(one, {credentials: "include"})),
        tried("read blindly", fetch(one, {credentials: "include", mode: "no-cors"})),
        tried("delete", fetch(one, {method: "DELETE", credentials: "include"})),
        tried("write", fetch(one + "/note", {method: "PUT", credentials: "include", body: '{"version":1,"body":"x"}'})),
        tried("post", fetch(told + "/api/studies", {method: "POST", credentials: "include", mode: "no-cors"})),
        embedded("script"), embedded("img"),
    ]).then(done);
"""
DRAWN = "return [...document.querySelectorAll('img[src*=artifacts]')].filter(one => one.naturalWidth > 0).length"
OFFERED = """
    return [...document.querySelectorAll('input[type=file], [aria-label="delete artifact"]')].filter(
        one => one.parentElement.checkVisibility()).map(one => one.outerHTML)
"""
ATTEMPTS = ("read", "read blindly", "delete", "write", "post", "script", "img")
CHANGE = """
    const [method, path, body, done] = arguments;
    fetch(path, {method: method, body: body, headers: {"Content-Type": "application/json"}})
        .then(answer => answer.text().then(text => done([answer.status, text])));
"""


@pytest.fixture(scope="module")
def driver() -> "Iterator[Chrome]":
    with browser() as opened:
        yield opened


@pytest.fixture
def chrome(driver: "Chrome") -> "Iterator[Chrome]":
    """One browser for all tests, left empty-handed by each."""
    yield driver
    driver.get("about:blank")
    driver.delete_all_cookies()
    for forget in (said, asked_for):
        forget(driver)


def shows(driver: "Chrome", *texts: str) -> None:
    """Wait until the page shows every one of `texts`."""

    def all_there() -> bool:
        page = driver.execute_script("return document.body.innerText")
        return all(text in page for text in texts)

    wait(driver, all_there, f"not all of {texts} were shown")


def wait(driver: "Chrome", until: Callable[[], bool], otherwise: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, SECONDS, 0.1).until(lambda _: until(), otherwise)


@contextmanager
def search_beside(url: str) -> Iterator[Any]:
    """Give a function that lets a search in another process do one trial of a kind, and returns when it is over."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=search_when_told, args=(url, there))
    process.start()
    there.close()

    def do(kind: str) -> None:
        here.send(kind)
        assert here.recv() == kind

    try:
        assert here.recv() == "leads"
        yield do
        here.send("end")
        process.join(SECONDS)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@contextmanager
def another_site(folder: Path, host: str) -> Iterator[str]:
    """Serve an empty page from another port of this machine."""
    folder.mkdir()
    (folder / "index.html").write_text("<title>another site</title>")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((LOOPBACK, 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}/index.html"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_running_search_is_followed_without_a_reload(chrome: "Chrome", sqlite_url: str) -> None:
    with search_beside(sqlite_url) as do, dashboard_at(sqlite_url) as address:
        do("completed")
        chrome.get(address)
        shows(chrome, "scripted", "Learning curves", "Best score over time", "Hyperparameter Importance")
        assert "token" not in chrome.current_url
        assert chrome.get_cookies()[0]["httpOnly"]
        chrome.get(f"{chrome.current_url}/trials")
        shows(chrome, "Trial 0", "Complete")
        chrome.execute_script("window.neverReloaded = true")
        for kind in ("completed", "pruned", "failed"):
            do(kind)
        shows(chrome, "Trial 3", "Pruned", "Fail", "Best Trial")
        assert chrome.execute_script("return window.neverReloaded")
        assert said(chrome) == []
        origin = address.partition("/?")[0]
        assert {url for url in asked_for(chrome) if not url.startswith(f"{origin}/")} <= {"about:blank"}


def entered(chrome: "Chrome", address: str) -> str:
    """Open the address that the dashboard prints; return that of the study's page, to which it leads."""
    chrome.get(address)
    shows(chrome, "scripted")
    return chrome.current_url


def test_notes_are_read_and_hostile_text_in_them_is_text(chrome: "Chrome", sqlite_url: str) -> None:
    searched_through(sqlite_url)
    with dashboard_at(sqlite_url) as address:
        home = entered(chrome, address)
        chrome.get(f"{home}/note")
        shows(chrome, "Best so far: trial", "learning_rate", "Failed: 1 of 4 trials", HOSTILE)
        chrome.get(f"{home}/trials?numbers=3")
        shows(chrome, "Trial 3", "Failed.", HOSTILE)
        assert chrome.execute_script("return document.querySelectorAll('a[href*=evil], img[src=x]').length") == 0
        assert "evil" not in "".join(asked_for(chrome))
        assert said(chrome) == []


@pytest.mark.slow
@pytest.mark.parametrize("allow_changes", [False, True], ids=["reading", "with changes"])
def test_what_is_refused_is_not_offered(chrome: "Chrome", sqlite_url: str, allow_changes: bool) -> None:
    searched_through(sqlite_url)
    with dashboard_at(sqlite_url, allow_changes=allow_changes) as address:
        home = entered(chrome, address)
        chrome.get(f"{home}/note")
        shows(chrome, "Best so far")
        assert offered(chrome, "[data-testid=EditIcon]") is allow_changes
        chrome.get(home.partition("/studies/")[0])
        shows(chrome, "scripted")
        assert offered(chrome, "[aria-label='delete study']") is allow_changes
        assert not offered(chrome, "[aria-label='rename study']")
        assert not offered(chrome, "[data-testid=AddBoxIcon]")


def offered(chrome: "Chrome", selector: str) -> bool:
    """Return whether something of a page is seen; there is one in any case, or there is nothing to hide."""
    seen = "return [...document.querySelectorAll(arguments[0])].map(one => one.checkVisibility())"
    found = chrome.execute_script(seen, selector)
    assert found, f"optuna-dashboard has no {selector} any more"
    return any(found)


@pytest.mark.slow
def test_pictures_of_a_trial_are_shown_and_nothing_offers_to_upload_or_delete(
    chrome: "Chrome", sqlite_url: str
) -> None:
    from selenium.webdriver.common.by import By

    searched_through(sqlite_url)
    with dashboard_at(sqlite_url, allow_changes=True) as address:
        home = entered(chrome, address)
        chrome.get(f"{home}/trials?numbers=0")
        shows(chrome, "learning-curve-0.svg", "confusion-matrix-0.svg")
        wait(chrome, lambda: chrome.execute_script(DRAWN) == 2, "the pictures were not drawn")
        for page in (home, f"{home}/trials?numbers=0", f"{home}/analytics", f"{home}/note"):
            chrome.get(page)
            shows(chrome, "scripted")
            assert chrome.execute_script(OFFERED) == []
        chrome.get(f"{home}/trials?numbers=0")
        shows(chrome, "learning-curve-0.svg")
        chrome.find_element(By.CSS_SELECTOR, "[data-testid=EditIcon], [data-testid=CreateIcon]").click()
        wait(chrome, lambda: bool(chrome.find_elements(By.TAG_NAME, "textarea")), "the note cannot be edited")
        assert chrome.find_elements(By.CSS_SELECTOR, "input[type=file]"), "there is one to hide"
        assert chrome.execute_script(OFFERED) == []
        assert said(chrome) == []


@pytest.mark.slow
def test_a_study_is_deleted_without_a_word_of_artifacts(chrome: "Chrome", sqlite_url: str) -> None:
    from selenium.webdriver.common.by import By

    searched_through(sqlite_url)
    with dashboard_at(sqlite_url, allow_changes=True) as address:
        entered(chrome, address)
        chrome.get(f"{address.partition('/?')[0]}/dashboard")
        shows(chrome, "scripted")
        chrome.find_element(By.CSS_SELECTOR, "[aria-label*=elete]").click()
        shows(chrome, "Are you sure you want to delete a study")
        assert "rtifacts" not in chrome.execute_script("return document.querySelector('[role=dialog]').innerText")


@pytest.mark.slow
def test_a_change_is_refused_with_a_sentence_that_the_page_shows(chrome: "Chrome", sqlite_url: str) -> None:
    from selenium.webdriver.common.by import By

    searched_through(sqlite_url)
    with dashboard_at(sqlite_url) as address:
        chrome.get(f"{entered(chrome, address)}/note")
        shows(chrome, "Best so far")
        before = everything(sqlite_url)
        # It is hidden, but a page may be older than the server that answers it.
        chrome.execute_script("document.querySelector('button:has([data-testid=EditIcon])').click()")
        chrome.find_element(By.TAG_NAME, "textarea").send_keys("mine")
        chrome.find_element(By.XPATH, "//button[contains(., 'Save')]").click()
        shows(chrome, "This dashboard is read-only; start it with hpo dashboard --allow-changes")
        status, _ = chrome.execute_async_script(CHANGE, "DELETE", "/api/studies/1", None)
        assert status == 403
        assert everything(sqlite_url) == before
        # The page throws the sentence on once it has shown it.
        first, thrown, second = said(chrome)
        assert "403 (Forbidden)" in first
        assert "Uncaught" in thrown
        assert "403 (Forbidden)" in second


@pytest.mark.slow
def test_with_allow_changes_a_note_is_kept(chrome: "Chrome", sqlite_url: str) -> None:
    searched_through(sqlite_url)
    with dashboard_at(sqlite_url, allow_changes=True) as address:
        chrome.get(address)
        shows(chrome, "scripted")
        note = '{"version": 1, "body": "a note of mine"}'
        assert chrome.execute_async_script(CHANGE, "PUT", "/api/studies/1/note", note)[0] == 204
        chrome.get(f"{chrome.current_url}/note")
        shows(chrome, "a note of mine")
        assert "Best so far" not in chrome.execute_script("return document.body.innerText")


@pytest.mark.parametrize("host", [LOOPBACK, "localhost"])
def test_a_page_of_another_origin_can_neither_read_nor_change(
    chrome: "Chrome", sqlite_url: str, tmp_path: Path, host: str
) -> None:
    """One of the same site, on another port, and one of another site; both in a browser that was let in."""
    searched_through(sqlite_url)
    with dashboard_at(sqlite_url, allow_changes=True) as address, another_site(tmp_path / "site", host) as elsewhere:
        chrome.get(address)
        shows(chrome, "scripted")
        before = everything(sqlite_url)
        chrome.get(elsewhere)
        results = chrome.execute_async_script(ATTACK, address.partition("/?")[0])
        assert set(map(tuple, results)) == {(name, "refused") for name in ATTEMPTS}
        assert everything(sqlite_url) == before
        assert len(Visitor(address).page()["trials"]) == 4


def test_an_html_artifact_runs_no_script(chrome: "Chrome", tmp_path: Path) -> None:
    """Of a dashboard over a store of artifacts, which hpo's own has not: it draws them."""
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact
    from optuna_dashboard import wsgi

    page = tmp_path / "page.html"
    page.write_text("<title>untouched</title><p>an artifact</p><script>document.title = 'ran'</script>")
    (tmp_path / "files").mkdir()
    store = FileSystemArtifactStore(tmp_path / "files")
    study = optuna.create_study()
    name = upload_artifact(artifact_store=store, study_or_trial=study, file_path=str(page), mimetype="text/html")
    with Server((LOOPBACK, 0), Handler) as server:
        guard = AccessControl(wsgi(study._storage, artifact_store=store), port=server.server_port, home="/dashboard")
        server.set_app(guard)
        with running(server):
            chrome.get(guard.url)
            shows(chrome, "no-name")
            chrome.get(f"{guard.url.partition('/?')[0]}/artifacts/{study._study_id}/{name}")
            shows(chrome, "an artifact")
            assert chrome.title == "untouched"
            assert chrome.execute_script("return self.origin") == "null"
