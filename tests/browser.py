"""Chromium without a window, driven by selenium: pages as a reader sees them, and what they say and ask of others."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
PAGE_SECONDS = 60

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None or importlib.util.find_spec("selenium") is None,
    reason="needs Chromium: install the packages chromium and chromium-driver, and selenium",
)


@contextmanager
def browser(*, width: int = 1280, height: int = 900) -> "Iterator[Chrome]":
    """Give a driver with an empty profile, which logs what pages say and ask for.

    Windows are at least some 500 pixels wide: for a phone there is `on_a_phone`.
    """
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="hpo-browser-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = CHROMIUM
        for switch in (*SWITCHES, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = Chrome(options=options, service=ChromeService(DRIVER))
        try:
            driver.set_page_load_timeout(PAGE_SECONDS)
            driver.get("about:blank")
            for forget in (said, network):  # What the browser's own first page did.
                forget(driver)
            yield driver
        finally:
            driver.quit()


def on_a_phone(driver: "Chrome", *, width: int = 390, height: int = 844) -> None:
    """Show pages as a phone of that width would."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def preferring(driver: "Chrome", *, scheme: str = "light", media: str = "") -> None:
    """Show pages to a reader who prefers `scheme`, light or dark; `media` may be `print`."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def said(driver: "Chrome") -> list[str]:
    """Return warnings and errors of the console since this was last asked."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


def asked_for(driver: "Chrome") -> list[str]:
    """Return the URLs of all requests since this was last asked, refused ones among them, but not of `data:`."""
    sent = (event["params"] for event in network(driver) if event["method"] == "Network.requestWillBeSent")
    urls = (request["request"]["url"] for request in sent)
    return [url for url in urls if not url.startswith("data:")]


def network(driver: "Chrome") -> list[dict[str, Any]]:
    """Return the events of the network since this was last asked, as the DevTools protocol writes them."""
    return [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
