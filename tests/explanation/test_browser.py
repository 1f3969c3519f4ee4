"""The page in a real browser: every picker works, by the keyboard too; and what every page must pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.pages.browsing import (
    DOES_NOT_FIT,
    LEAST_CONTRAST,
    SCHEMES,
    WIDTHS,
    check_quiet,
    check_readable,
    check_words,
    choose,
    focus,
    open_page,
    press,
    text,
)
from tests.tiny import tiny_llama, tiny_samples

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "explain.html"
    settings, training = tr.AdapterSettings(rank=1, samples=4), tr.TrainSettings(steps=4, batch_size=2, lr=0.01)
    found = tr.explain(tiny_llama(seed=1), tiny_samples(8), out, settings=settings, training=training, title="tiny")
    assert 0 in found.plan.rank.values(), "a module without a rank belongs to what is tried"
    return out


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_text_fits_and_can_be_read(browser: Any, page: Path, width: int, scheme: str) -> None:
    check_readable(browser, page, width, scheme)


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
    check_quiet(browser, page)


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
    keys = pytest.importorskip("selenium.webdriver").Keys
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
    check_words(browser)
