"""The browser of the tests: headless Chromium or Chrome."""

from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.conftest import BROWSER, DRIVER


def chromium(profile: Path) -> Chrome:
    """Start a browser that connects to the loopback only, with an empty folder as its profile. The caller quits it."""
    options = ChromeOptions()
    assert BROWSER, "no Chromium or Chrome"
    assert DRIVER, "no chromedriver"
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    switches += " disable-component-update disable-sync disable-dev-shm-usage window-size=1000,900"
    resolver = "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
    for argument in [*switches.split(), resolver, f"user-data-dir={profile}"]:
        options.add_argument(f"--{argument}")
    return Chrome(options, ChromeService(DRIVER))
