"""Headless Chromium or Chrome for the tests."""

from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.conftest import BROWSER, DRIVER


def chromium(profile: Path) -> Chrome:
    """Start a browser that reaches only the loopback, with its profile in an empty folder. The caller quits it."""
    options = ChromeOptions()
    assert BROWSER, "Chromium or Chrome is not installed"
    assert DRIVER, "chromedriver is not installed"
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    switches += " disable-component-update disable-sync disable-dev-shm-usage window-size=1000,900"
    resolver = "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    for argument in [*switches.split(), resolver, f"user-data-dir={profile}"]:
        options.add_argument(f"--{argument}")
    return Chrome(options, ChromeService(DRIVER))
