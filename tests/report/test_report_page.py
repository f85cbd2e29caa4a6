"""The report as a reader opens it: in Chromium, from a file, with hostile labels, on a phone, in the dark, on paper."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpo.messages import Slice
from hpo.report.drawing import LONGEST_TEXT
from hpo.report.figures import FIGURES
from hpo.report.page import page
from hpo.report.report_data import ReportData
from hpo.report.tables import counts
from tests.browser import asked_for, browser, needs_browser, on_a_phone, preferring, said
from tests.report.studies import confirming, look_at_test, report_data, scores, several, trial, verdict

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "\"'><svg onload=alert(3)>",
    "<a href='javascript:alert(4)'>x</a>",
    "\ud800 half a pair",
    "a word " + "x" * 500,
)
DRAWN_SECONDS = 60
PLOTS = ".plot .main-svg:first-child"


@pytest.fixture(scope="module")
def running() -> "Iterator[Chrome]":
    with browser() as driver:
        yield driver


@pytest.fixture
def chromium(running: "Chrome") -> "Chrome":
    """A browser that has forgotten what earlier pages said and asked for."""
    for forget in (said, asked_for):
        forget(running)
    return running


def full_study() -> ReportData:
    """Return a study with something for every figure."""
    slices = (Slice(by="group", name="mail", rows=20, score=0.8), Slice(by="length", name="short", rows=9, score=0.7))
    runs = (confirming(3, 0.9, *slices), confirming(3, 0.92, *slices, seed=2))
    failed = [trial(12, 0.3, state="PRUNED"), trial(13, state="FAIL", reason="RuntimeError: no")]
    return report_data([*several(12), *failed], verdict=verdict(), confirmation=runs)


def test_trials_that_were_never_begun_are_not_counted() -> None:
    waits = trial(2, state="WAITING", configuration={}, validation=None, best_epoch=None)
    results = report_data([trial(0, 0.5), trial(1, 0.4, state="WAITING"), waits]).results
    assert counts(results) == "2 trials: 1 completed, 1 paused"


def test_a_trial_that_another_program_put_into_the_study_is_listed() -> None:
    """Optuna knows what was proposed; a configuration hpo has none of."""
    text = page(report_data([trial(0, 0.5), trial(1, 0.6, configuration={}, validation=None, best_epoch=None)]))
    assert "2 trials: 2 completed" in text


def hostile_study() -> ReportData:
    """Return a study in which everything that comes from outside is hostile."""
    trials = [
        trial(
            number, 0.5 + number / 100, validation=scores(0.5, HOSTILE), proposed_by=bad, reason=bad,
            configuration={"optimizer": bad, "learning_rate": 10.0**-number, bad: number},
            parameters={"optimizer": bad, "learning_rate": 10.0**-number, bad: number},
            state="COMPLETE" if number else "FAIL",
        )
        for number, bad in enumerate(HOSTILE)
    ]  # fmt: skip
    groups = [Slice(by=by, name=bad, rows=9, score=0.5) for bad in HOSTILE for by in ("group", "length")]
    names = {"name": HOSTILE[1], "versions": {HOSTILE[0]: HOSTILE[1]}, "data_fingerprint": HOSTILE[0]}
    baselines = {bad: confirming(0, 0.4).held_out for bad in HOSTILE}
    return report_data(
        trials, test=(look_at_test(6, 0.6, *groups),), baselines=baselines, led_by=HOSTILE[0], advice=HOSTILE,
        space={bad: bad for bad in HOSTILE[:5]}, **names,
    )  # fmt: skip


def as_cut(text: str) -> str:
    plain = text.replace("\ud800", "·")
    return plain if len(plain) <= LONGEST_TEXT else plain[: LONGEST_TEXT - 1] + "…"


def opened(driver: "Chrome", study: ReportData, folder: Path) -> None:
    """Open the report on a study, and wait until its figures are drawn."""
    from selenium.webdriver.support.wait import WebDriverWait

    path = folder / "report.html"
    path.write_text(page(study), encoding="utf-8")
    driver.get(path.as_uri())
    WebDriverWait(driver, DRAWN_SECONDS).until(drawn)


def drawn(driver: "Chrome") -> bool:
    return len(driver.find_elements("css selector", PLOTS)) == len(driver.find_elements("css selector", ".plot"))


@needs_browser
def test_every_figure_is_drawn_and_nothing_is_asked_of_any_host(chromium: "Chrome", tmp_path: Path) -> None:
    opened(chromium, full_study(), tmp_path)
    assert len(chromium.find_elements("css selector", PLOTS)) == len(FIGURES)
    assert said(chromium) == []
    assert asked_for(chromium) == [(tmp_path / "report.html").as_uri()]


@needs_browser
def test_hostile_text_stays_text(chromium: "Chrome", tmp_path: Path) -> None:
    opened(chromium, hostile_study(), tmp_path)
    assert said(chromium) == [], "an alert or a refused script would be here"
    assert chromium.find_elements("css selector", PLOTS)
    for element in ("img", "a", "svg[onload]", "body > script ~ script ~ script"):
        assert chromium.find_elements("css selector", element) == [], element
    text = chromium.find_element("css selector", "main").get_attribute("textContent")
    assert text is not None
    assert text.count("<img src=x onerror=alert(1)>") > 5
    groups = [
        group.get_attribute("textContent") for group in chromium.find_elements("css selector", "#by_group .ytick")
    ]
    assert set(groups) == {f"{as_cut(bad)} (9)" for bad in HOSTILE}
    assert asked_for(chromium) == [(tmp_path / "report.html").as_uri()]


@needs_browser
def test_a_script_that_comes_in_all_the_same_does_not_run(chromium: "Chrome", tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    evil = (
        "<script>document.title = 'mine'</script><img src=http://example.invalid/x onerror=\"document.title='mine'\">"
    )
    path.write_text(page(report_data([trial(0, 0.5)])).replace("<main>", f"<main>{evil}"), encoding="utf-8")
    chromium.get(path.as_uri())
    assert chromium.title == "by hand: macro_f1"
    assert len(said(chromium)) >= 2, "the script, the image and what it does are each refused"
    replies = [url for url in asked_for(chromium) if not url.startswith("file:")]
    assert replies in ([], ["http://example.invalid/x"]), "refused before it is sent"


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("study", [full_study, hostile_study])
def test_a_phone_does_not_scroll_sideways(chromium: "Chrome", tmp_path: Path, study: Callable[[], ReportData]) -> None:
    on_a_phone(chromium)
    try:
        opened(chromium, study(), tmp_path)
        seen, whole = chromium.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert (seen, whole) == (390, 390)
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
@needs_browser
def test_a_narrow_page_breaks_no_time_and_no_number(chromium: "Chrome", tmp_path: Path) -> None:
    on_a_phone(chromium)
    try:
        opened(chromium, full_study(), tmp_path)
        lines = "getComputedStyle(cell).whiteSpace == 'nowrap' && cell.getBoundingClientRect().height < 40"
        whole = "[...document.querySelectorAll('td')].filter(cell => /^(1 min 30 s|0[.]\\d+)$/.test(cell.textContent))"
        times, broken = chromium.execute_script(
            f"const all = {whole}; return [all.filter(c => /min/.test(c.textContent)).length,"
            f" all.filter(cell => !({lines})).map(cell => cell.textContent)]"
        )
        assert times >= 10
        assert broken == []
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
@needs_browser
def test_the_dark_is_dark_and_paper_is_white(chromium: "Chrome", tmp_path: Path) -> None:
    try:
        preferring(chromium, scheme="dark")
        opened(chromium, full_study(), tmp_path)
        assert brightness(chromium, "body", "background-color") < 60
        assert brightness(chromium, "#over_time .xtick text", "fill") > 180
        chromium.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        preferring(chromium, scheme="dark", media="print")
        assert brightness(chromium, "body", "background-color") == 255
        assert brightness(chromium, "#over_time .xtick text", "fill") < 60
        width = "return document.querySelector('#over_time .main-svg').getBoundingClientRect().width"
        assert chromium.execute_script(width) == 680, "as wide as paper"
        chromium.execute_script("window.dispatchEvent(new Event('afterprint'))")
        assert chromium.execute_script(width) > 680
    finally:
        preferring(chromium)
    assert said(chromium) == []


@pytest.mark.slow
@needs_browser
def test_it_can_be_printed(chromium: "Chrome", tmp_path: Path) -> None:
    opened(chromium, full_study(), tmp_path)
    pdf = base64.b64decode(chromium.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    assert said(chromium) == []


def brightness(driver: "Chrome", selector: str, what: str) -> float:
    """Return how bright a colour of an element is, from 0 to 255."""
    color = driver.find_element("css selector", selector).value_of_css_property(what)
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


def test_the_policy_allows_the_scripts_of_the_page_and_nothing_else() -> None:
    text = page(report_data([trial(0, 0.5)]))
    [policy] = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"&#39;sha256-{digest}&#39;" for digest in digests)
    assert f"script-src {allowed};" in policy
    assert policy.startswith("default-src &#39;none&#39;;")
    assert "http:" not in policy
    assert len(scripts) == 2


def test_the_verdict_comes_first_in_its_own_words() -> None:
    text = body(full_study())
    assert text.index("Take trial 3: it is better than the default.") < text.index("Leaderboard")
    assert "hpo confirm" not in text


def test_where_nothing_was_confirmed_it_says_what_cannot_be_said_and_what_says_it() -> None:
    text = body(report_data(several(5)))
    assert "part of it is selection bias" in text
    assert "Whether it is better than the default on new examples, and by how much, was not confirmed." in text
    assert "hpo confirm trains the best trials and the default again on fresh seeds" in text


def test_a_running_search_is_said_to_run_and_when_it_was_read() -> None:
    text = body(report_data([trial(0, 0.5), trial(1, state="RUNNING")], led_by="process 7 on host since 18:00"))
    assert "still running, led by process 7 on host since 18:00." in text
    assert "This report shows its state at 2026-01-02 18:00 UTC" in text
    assert "1 completed, 1 in training" in text
    assert "The end of the search trains the best trials and the default again" in text
    assert "still running" not in body(report_data([trial(0, 0.5)]))


def test_a_study_without_a_finished_trial_says_so_and_lists_what_failed() -> None:
    failed = [trial(number, state="FAIL", reason="RuntimeError: no such layer") for number in range(3)]
    text = body(report_data(failed))
    assert "No trial has completed, so there is no configuration to take" in text
    cells = re.findall("<td[^>]*>([^<]*)</td>", text)
    assert "3, failed, RuntimeError: no such layer, 0, 1, 2" in ", ".join(cells)


def test_what_the_pruner_may_have_cost_is_said_below_the_curves() -> None:
    assert "<p>Of 5 trials</p>" in body(report_data(several(3), audit="Of 5 trials"))


def test_the_default_that_was_never_beaten_is_said_to_be_the_best() -> None:
    text = body(report_data([trial(0, 0.9), trial(1, 0.8)]))
    assert "the search has found no better one" in text
    assert "Its score on new examples was not confirmed." in text
    assert "better than the default" not in text


def test_a_study_without_a_test_split_has_no_such_table() -> None:
    assert "The test split" not in body(report_data(several(3)))
    assert "only the first was unbiased" in body(
        report_data(several(3), test=(look_at_test(1, 0.8), look_at_test(2, 0.9)))
    )


def test_the_record_has_what_is_needed_to_do_it_again() -> None:
    text = body(report_data(several(3)))
    for part in ("f1f1", "group_column: source", "1.50 device hours"):
        assert part in text, part


def body(study: ReportData) -> str:
    """Return the page without its scripts, entities read."""
    return page(study).partition("<main>")[2].partition("</main>")[0].replace("&#39;", "'")
