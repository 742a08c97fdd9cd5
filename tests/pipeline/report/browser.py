"""A real headless Chromium: what a page shows, logs and asks of the network."""

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
        """A local file, in a window of so many CSS pixels and a reader's colour scheme."""
        self.resize(width)
        self.scheme(scheme)
        self.logs()
        self.driver.get(file.as_uri())
        self.wait("document.querySelectorAll('.plot .main-svg').length")

    def resize(self, width: int) -> None:
        """Let the window have so many CSS pixels from now on."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def scheme(self, scheme: str) -> None:
        """What `prefers-color-scheme` answers from now on."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, expression: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true; a minute at most."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.05).until(lambda _: self.js(condition))

    def find(self, selector: str) -> list[Any]:
        """Elements by a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def choose(self, element: str, value: str) -> None:
        """Pick an option of a select by its value."""
        from selenium.webdriver.support.ui import Select

        Select(self.find(element)[0]).select_by_value(value)

    def logs(self) -> tuple[list[str], list[str]]:
        """Since last asked: console messages, and URLs that were asked for."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return console, asked

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
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
    """A browser that logs everything, without network services of its own."""
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
