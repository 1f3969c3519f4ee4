"""Headless Chromium, driven by selenium: opening a page, and the measures that every page must pass.

`apt-get install chromium chromium-driver`, `pip install -e '.[test,browser]'`, `pytest -m browser`.
TLORA_SCREENSHOTS=FOLDER keeps a picture of every page, width and scheme, to be looked at.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDTHS, SCHEMES = (400, 1400), ("light", "dark")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DOES_NOT_FIT, LEAST_CONTRAST = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("does_not_fit.js", "least_contrast.js")
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with a profile of its own; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the extra `browser`")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield started
    started.quit()


def open_page(browser: Any, page: Path, width: int = 1400, scheme: str = "light") -> None:
    """The page at a width and a colour scheme, with the logs of what was before it emptied."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())


def press(browser: Any, *keys: str) -> None:
    """Keys for whatever has the focus."""
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def focus(browser: Any, css: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).focus()", css)


def text(browser: Any, css: str) -> str:
    found: str = browser.execute_script("return document.querySelector(arguments[0]).textContent", css)
    return found


def choose(browser: Any, css: str, value: str) -> None:
    """Another option of a <select>, as the browser tells the page of it."""
    script = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    browser.execute_script(script, css, value)


def check_readable(browser: Any, page: Path, width: int, scheme: str) -> None:
    """Nothing is wider than the screen or cut off, and every text stands out from its ground."""
    open_page(browser, page, width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script(DOES_NOT_FIT) == []
    contrast, where = browser.execute_script(LEAST_CONTRAST)
    assert contrast >= 4.5, where
    if folder := os.environ.get("TLORA_SCREENSHOTS"):
        browser.execute_script("document.querySelectorAll('details').forEach((e, i) => { e.open = i === 1; })")
        height = browser.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        Path(folder, f"{page.stem}-{width}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))


def check_quiet(browser: Any, page: Path) -> None:
    """Since the page was opened: no error or warning, and nothing was fetched but the page itself."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and set(asked) <= {page.as_uri(), "data:,"}


def check_words(browser: Any) -> None:
    """Everything that is a picture, or can be reached by the keyboard, has words."""
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('svg, select, button, table, section, [role=img], [tabindex=\"0\"]')]"
        ".filter((e) => !(e.ariaLabel || e.getAttribute('aria-labelledby') || (e.labels && e.labels.length)"
        " || e.textContent.trim() || e.closest('table[class=bars]'))).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert browser.execute_script("return [...document.querySelectorAll('svg')].every((e) => e.ariaLabel.length > 40)")
