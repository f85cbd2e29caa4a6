"""Takes the pictures of the docs: `hpo demo`, and then `python docs/take_pictures.py --store sqlite:///hpo.db`.

Needs Chromium and its driver.
"""

import argparse
import base64
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from selenium.webdriver import Chrome  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from hpo.report.page import page  # noqa: E402
from hpo.report.report_data import read_report_data  # noqa: E402
from hpo.store.database import open_database  # noqa: E402
from tests.browser import browser, preferring  # noqa: E402
from tests.dashboard.visiting import dashboard_at  # noqa: E402

FOLDER = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 1100, 1400
WHOLE_STUDY = 2200
"""Height of the figures on the page of a study."""
DRAWN_SECONDS = 60


def main() -> None:
    """Take each picture anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="sqlite:///hpo.db")
    url = parser.parse_args().store
    FOLDER.mkdir(exist_ok=True)
    with browser(width=WIDTH, height=HEIGHT) as driver:
        for name, take in PICTURES.items():
            (FOLDER / name).write_bytes(take(driver, url))
            print(f"Wrote {FOLDER / name}.")


def report(driver: Chrome, url: str) -> bytes:
    """Return the head of a report."""
    _open_report(driver, url)
    return _photographed(driver, 0)


def report_in_the_dark(driver: Chrome, url: str) -> bytes:
    """Return the hyperparameter figures in dark mode."""
    preferring(driver, scheme="dark")
    _open_report(driver, url)
    top = driver.execute_script("return document.querySelector('#hyperparameters').offsetTop")
    return _photographed(driver, top)


def dashboard(driver: Chrome, url: str) -> bytes:
    """Return the page of a study."""
    preferring(driver, scheme="light")
    with dashboard_at(url) as address:
        driver.get(address)
        shown = "return [...document.querySelectorAll('.gtitle')].some(one => one.textContent == 'Learning curves')"
        WebDriverWait(driver, DRAWN_SECONDS).until(lambda driver: driver.execute_script(shown))
        return _photographed(driver, 0, WHOLE_STUDY)


def trial_in_the_dashboard(driver: Chrome, url: str) -> bytes:
    """Return the learning curve and the confusion matrix on the page of the default's trial."""
    with dashboard_at(url) as address:
        driver.get(address)
        WebDriverWait(driver, DRAWN_SECONDS).until(lambda driver: "/studies/" in driver.current_url)
        driver.get(f"{driver.current_url}/trials?numbers=0")
        WebDriverWait(driver, DRAWN_SECONDS).until(lambda driver: driver.execute_script(PICTURES_DRAWN))
        height = driver.execute_script("return document.documentElement.scrollHeight")
        return _photographed(driver, max(0, height - HEIGHT))


PICTURES_DRAWN = """
    return [...document.querySelectorAll('img[src*=artifacts]')].filter(one => one.naturalWidth > 0).length == 2"""
PICTURES: Mapping[str, Callable[[Chrome, str], bytes]] = {
    "report.png": report,
    "report-dark.png": report_in_the_dark,
    "dashboard.png": dashboard,
    "dashboard-trial.png": trial_in_the_dashboard,
}


def _open_report(driver: Chrome, url: str) -> None:
    database = open_database(url, must_exist=True)
    try:
        text = page(read_report_data(database))
    finally:
        database.close()
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        driver.get(Path(file.name).as_uri())
        WebDriverWait(driver, DRAWN_SECONDS).until(_is_drawn)


def _is_drawn(driver: Chrome) -> bool:
    undrawn = "return [...document.querySelectorAll('.plot')].filter(plot => !plot.querySelector('.main-svg')).length"
    return bool(driver.execute_script(undrawn) == 0)


def _photographed(driver: Chrome, top: int, height: int = HEIGHT) -> bytes:
    clip = {"x": 0, "y": top, "width": WIDTH, "height": height, "scale": 1}
    answer = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return base64.b64decode(answer["data"])


if __name__ == "__main__":
    main()
