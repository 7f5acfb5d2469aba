"""A headless Chromium, driven through Selenium, for tests of HTML pages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--force-device-scale-factor=1", "--force-color-profile=srgb", "--hide-scrollbars",
)  # fmt: skip
WAIT_SECONDS = 60
# Runs before any script of a page.
_RECORDER = """
window.violations = [];
window.errors = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(
  event.violatedDirective + " " + event.blockedURI));
window.addEventListener("error", (event) => window.errors.push(String(event.message)));
"""


class Browser:
    """A browser window of a size in CSS pixels."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1000, height: int = 1000) -> None:
        """Opens a page and forgets earlier requests."""
        self.resize(width, height)
        self.driver.get("about:blank")
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(page.as_uri())

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Sets the size of the window and the color scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def run(self, script: str, *values: Any) -> Any:
        """The value that a JavaScript function body returns."""
        return self.driver.execute_script(script, *values)

    def wait(self, condition: str | Callable[[], Any]) -> Any:
        """Waits until a JavaScript expression, or a function, is true, and returns its value."""
        end = time.monotonic() + WAIT_SECONDS
        while True:
            value = self.run(f"return {condition}") if isinstance(condition, str) else condition()
            if value:
                return value
            assert time.monotonic() < end, f"not within {WAIT_SECONDS} s: {condition}; {self.run('return errors')}"
            time.sleep(0.02)

    def pixels(self, selector: str) -> np.ndarray[Any, Any]:
        """What an element shows on the screen: H x W x 3, RGB, 8 bit."""
        data = self.driver.find_element("css selector", selector).screenshot_as_png
        return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])

    def requests(self) -> list[str]:
        """The addresses that were requested since the last call, without those that the page's own policy stopped."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        stopped = {
            event["params"]["requestId"]
            for event in events
            if event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp"
        }
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [request["request"]["url"] for request in sent if request["requestId"] not in stopped]

    def complaints(self) -> list[str]:
        """Violations of the content policy, errors of scripts, and errors in the console."""
        console = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [*self.run("return violations"), *self.run("return errors"), *console]


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Starts a browser with an empty profile; skips the test, with the reason, where there is none."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        started.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _RECORDER})
        yield Browser(started)
    finally:
        started.quit()
