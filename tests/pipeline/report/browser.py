"""Drives a headless Chromium: reads the page, the console and the network requests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)


class Page:
    """One tab; `driver` is selenium's."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, file: Path, width: int = 1600, scheme: str = "light") -> None:
        """Open a local file in a window of this width in CSS pixels and with a colour scheme."""
        self.resize(width)
        self.scheme(scheme)
        self.logs()
        self.driver.get(file.as_uri())
        self.wait("document.querySelectorAll('.plot .main-svg').length")

    def resize(self, width: int) -> None:
        """Set the width of the window in CSS pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def scheme(self, scheme: str) -> None:
        """Set the value of `prefers-color-scheme`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, expression: str, *arguments: Any) -> Any:
        """Evaluate a JavaScript expression."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true, at most a minute."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.05).until(lambda _: self.js(condition))

    def find(self, selector: str) -> list[Any]:
        """Find elements by a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def choose(self, element: str, value: str) -> None:
        """Pick an option of a select by its value."""
        from selenium.webdriver.support.ui import Select

        Select(self.find(element)[0]).select_by_value(value)

    def logs(self) -> tuple[list[str], list[str]]:
        """Return the console messages and requested URLs since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return console, urls

    def screenshot(self, file: Path) -> None:
        """Save the whole page as a PNG."""
        import base64

        height = self.js("document.documentElement.scrollHeight")
        width = self.js("innerWidth")
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot",
            {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1},
            },
        )
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def start() -> Iterator[Page]:
    """Start a browser that logs everything, with its own network services off."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
    try:
        yield Page(driver)
    finally:
        driver.quit()
