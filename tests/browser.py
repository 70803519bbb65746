"""The browser of the tests: Chromium or Chrome, without a window."""

from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.conftest import BROWSER, DRIVER


def chromium(profile: Path) -> Chrome:
    """Start a browser that reaches the loopback alone, with an empty folder as its profile. The caller quits it."""
    options = ChromeOptions()
    assert BROWSER, "no Chromium or Chrome"
    assert DRIVER, "no chromedriver"
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1000,900"),
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{argument}")
    return Chrome(options, ChromeService(DRIVER))
