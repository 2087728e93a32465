"""A real Chromium without a network, and pages in it."""

import os
from pathlib import Path

import pytest
from program import required
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).resolve().parent
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1366,900",
)  # fmt: skip
PATIENCE_S = 60


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.browser)


class Page:
    """One report in the browser."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *values):
        """The value that the script returns in the page."""
        return self.driver.execute_script(script, *values)

    def until(self, script):
        """The value of the script as soon as it is true."""
        return WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05).until(lambda _: self.run(script))

    def open(self, path):
        """The page, returned when it is ready."""
        self.driver.get(Path(path).resolve().as_uri())
        self.until("return document.documentElement.dataset.ready")
        return self

    def errors(self):
        """The console messages since the last call."""
        return self.driver.get_log("browser")

    def cells(self, id_):
        """The rows of a table as texts."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => [...r.cells].map(c => c.textContent))", f"#{id_}"
        )

    def set(self, id_, value, event="change"):
        """Changes a field as a user does."""
        self.run(
            "const e = document.getElementById(arguments[0]);"
            "if (e.type === 'checkbox') e.checked = arguments[1]; else e.value = arguments[1];"
            "e.dispatchEvent(new Event(arguments[2], {bubbles: true}))", id_, value, event,
        )  # fmt: skip


@pytest.fixture(scope="session")
def chromium():
    """Skips the test if Chromium is missing, with a hint how to install it."""
    required("" if CHROMIUM.exists() and DRIVER.exists() else "Chromium is missing: run `sh tests/browser/install.sh` as root")
    options = Options()
    options.binary_location = str(CHROMIUM)
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER), log_output=os.devnull))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions", {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    )
    yield Page(driver)
    driver.quit()
