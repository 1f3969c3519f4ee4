"""The page in a real browser: no error, nothing fetched, every picker works, the text fits a phone and a desk.

Headless Chromium, driven by selenium: `apt-get install chromium chromium-driver`, `pip install -e '.[test,browser]'`,
`pytest -m browser`. TLORA_SCREENSHOTS=FOLDER keeps a picture of every width and scheme, to be looked at.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the extra `browser`")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = (400, 1400)

DOES_NOT_FIT, LEAST_CONTRAST = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("does_not_fit.js", "least_contrast.js")
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    settings, training = tr.AdapterSettings(rank=1, samples=4), tr.TrainSettings(steps=4, batch_size=2, lr=0.01)
    found = tr.explain(tiny_llama(seed=1), tiny_samples(8), out, settings=settings, training=training, title="tiny")
    assert 0 in found.plan.rank.values(), "a module without a rank belongs to what is tried"
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium or chromedriver is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def open_page(browser: Any, page: Path, width: int = 1400, scheme: str = "light") -> None:
    """The page at a width and a colour scheme, with the logs of what was before it emptied."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())


def text(browser: Any, css: str) -> str:
    found: str = browser.execute_script("return document.querySelector(arguments[0]).textContent", css)
    return found


def press(browser: Any, *keys: str) -> None:
    """Keys for whatever has the focus."""
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def focus(browser: Any, css: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).focus()", css)


def choose(browser: Any, css: str, value: str) -> None:
    """Another option of a <select>, as the browser tells the page of it."""
    script = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))"
    )
    browser.execute_script(script, css, value)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_fits_and_can_be_read(browser: Any, page: Path, width: int, scheme: str) -> None:
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
        Path(folder, f"explain-{width}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))


def test_the_measures_of_fitting_notice(browser: Any, page: Path) -> None:
    open_page(browser, page, 400)
    browser.execute_script("document.querySelector('h1').style.whiteSpace = 'nowrap'")
    assert any("<h1" in found for found in browser.execute_script(DOES_NOT_FIT))
    browser.execute_script("document.querySelector('h1').style.color = '#ccc'")
    assert browser.execute_script(LEAST_CONTRAST)[0] < 2


def test_no_error_and_nothing_is_fetched(browser: Any, page: Path) -> None:
    open_page(browser, page)
    modules = len(browser.execute_script("return [...document.querySelectorAll('#module option')]"))
    for index in range(modules):
        choose(browser, "#module", str(index))
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked and set(asked) <= {page.as_uri(), "data:,"}


def test_an_error_would_be_noticed(browser: Any, page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.read_text("utf-8").replace("</body>", '<script>nothing()</script><img src="a.png">'), "utf-8"
    )
    open_page(browser, broken)
    said = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "nothing is not defined" in said and "Content Security Policy" in said


def test_every_module_can_be_picked(browser: Any, page: Path) -> None:
    open_page(browser, page)
    modules = json.loads(text(browser, "#data"))["modules"]
    for index, module in enumerate(modules):
        choose(browser, "#module", str(index))
        assert text(browser, "#shape") == module["shape"]
        for panel, said in module["said"].items():
            assert text(browser, f"#said-{panel}") == said
        label = browser.execute_script("return document.querySelector('#spectrum-plot svg').getAttribute('aria-label')")
        assert module["said"]["spectrum"] in label
        cells = browser.execute_script(
            "return ['choices', 'update'].map((name) => document.querySelectorAll(`#${name}-table td:nth-child(2)`))"
            ".map((cells) => [...cells].map((e) => e.textContent))"
        )
        assert cells[0] == [f"{share:.3f}" for share in module["share"]]
        assert len(cells[1]) == len(module["rows"] or [])
        pressed = browser.execute_script(
            "return [...document.querySelectorAll('#map [aria-pressed=true]')].map((e) => Number(e.dataset.index))"
        )
        assert pressed == [index]


def test_the_heat_map_shows_every_quantity(browser: Any, page: Path) -> None:
    open_page(browser, page)
    modules = json.loads(text(browser, "#data"))["modules"]
    options = browser.execute_script("return [...document.querySelectorAll('#quantity option')].map((e) => e.value)")
    assert sorted(options) == sorted(modules[0]["map"])
    for quantity in options:
        choose(browser, "#quantity", quantity)
        shown = browser.execute_script(
            "return Object.fromEntries([...document.querySelectorAll('#map button')]"
            ".map((e) => [e.dataset.index, e.textContent]))"
        )
        assert shown == {str(i): module["map"][quantity][1] for i, module in enumerate(modules)}


def test_it_works_by_the_keyboard_alone(browser: Any, page: Path) -> None:
    keys = webdriver.Keys
    open_page(browser, page)
    press(browser, keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the numbers"
    press(browser, keys.ENTER, keys.TAB)
    assert browser.switch_to.active_element.get_attribute("id") == "module"
    press(browser, keys.ARROW_DOWN)
    assert browser.switch_to.active_element.get_attribute("value") == "1"
    focus(browser, "#next")
    press(browser, keys.ENTER, keys.SPACE)
    assert browser.execute_script("return document.querySelector('#module').value") == "3"
    focus(browser, "#map [aria-pressed=true]")
    press(browser, keys.ARROW_DOWN, keys.ARROW_RIGHT, keys.ENTER)
    chosen = browser.execute_script("const s = document.querySelector('#module'); return s.options[s.value].text")
    assert chosen == "model.layers.1.mlp.gate_proj"
    press(browser, *[keys.ARROW_UP] * 5, *[keys.ARROW_LEFT] * 9, keys.ENTER)
    assert browser.execute_script("return document.querySelector('#module').value") == "0"
    focus(browser, "summary")
    press(browser, keys.ENTER)
    assert browser.execute_script("return document.querySelector('details').open")


def test_what_is_a_picture_has_words(browser: Any, page: Path) -> None:
    open_page(browser, page)
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('svg, select, button, table, section, [tabindex=\"0\"]')].filter((e) =>"
        " !(e.ariaLabel || e.getAttribute('aria-labelledby') || (e.labels && e.labels.length) || e.textContent.trim()"
        " || e.closest('table[class=bars]'))).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert browser.execute_script("return [...document.querySelectorAll('svg')].every((e) => e.ariaLabel.length > 40)")
