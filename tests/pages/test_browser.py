"""Pages of a run, a trace, a study and a verdict in a real browser, at two widths and in both schemes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.oracle.altered import changed, replaced
from tests.pages.browsing import (
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
from tlora_ref.cli.main import main
from tlora_ref.oracle.reports.files import write_report

pytestmark = pytest.mark.browser
STUDIES = Path(__file__).resolve().parents[2] / "examples" / "studies" / "results"
KINDS = ("run", "trace", "study", "verdict")
SAMPLES = tiny_samples(6, seed=4)


def run(folder: Path) -> Path:
    """A run whose best step is not its last, so that the kept one is drawn inside."""
    model = tiny_llama(seed=1)
    settings = tr.AdapterSettings(rank=1, samples=4)
    adapter = tr.make_adapter(settings, model, tr.calibrate_for(settings, model, SAMPLES)[0])
    history = tr.train(model, adapter, SAMPLES, steps=9, batch_size=2, lr=0.01, valid=SAMPLES[:2], eval_every=3).history
    for entry, loss in zip(history[2::3], (3.0, 2.5, 2.75), strict=True):
        entry["valid_loss"], entry["best"] = loss, loss < 2.75
    tr.save_peft(adapter, folder / "adapter")
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, history)))
    (folder / "config.yaml").write_text("keep: best\n")
    return folder


def trace(folder: Path) -> Path:
    tr.trace(tiny_llama(seed=3), SAMPLES, folder, profile="released", r_init=2, steps=2)
    return folder


def reported(folder: Path, page: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", str(folder), "--html", str(page)])
    assert not ended.value.code


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {name: folder / f"{name}.html" for name in KINDS}
    makers: dict[str, Callable[[Path], Path]] = {"run": run, "trace": trace, "study": lambda _: STUDIES}
    for name, make in makers.items():
        reported(make(folder / name), found[name])
    too_large = replaced(r"covariance/.*", lambda tensors, name: tensors[name] * 1.01)
    verdict = tr.compare(folder / "trace", changed(folder / "trace", folder / "wrong", too_large))
    assert not verdict.passed, "a page of what is wrong has more on it"
    write_report(verdict, found["verdict"])
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_text_fits_and_can_be_read(
    browser: Any, pages: dict[str, Path], kind: str, width: int, scheme: str
) -> None:
    check_readable(browser, pages[kind], width, scheme)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_have_words_and_nothing_is_fetched(browser: Any, pages: dict[str, Path], kind: str) -> None:
    open_page(browser, pages[kind])
    check_words(browser)
    check_quiet(browser, pages[kind])


@pytest.mark.parametrize("kind", ["run", "trace"])
def test_the_map_shows_every_quantity_and_tells_of_a_module(browser: Any, pages: dict[str, Path], kind: str) -> None:
    keys = pytest.importorskip("selenium.webdriver").Keys
    open_page(browser, pages[kind])
    modules = json.loads(text(browser, "#data"))["modules"]
    quantities = browser.execute_script("return [...document.querySelectorAll('#quantity option')].map((e) => e.value)")
    assert len(quantities) == 4 and quantities == list(modules[0]["map"])
    for quantity in quantities:
        choose(browser, "#quantity", quantity)
        cells = browser.execute_script("return [...document.querySelectorAll('#map button')].map((e) => e.textContent)")
        assert cells == [module["map"][quantity][1] for module in modules]
    assert text(browser, "#chosen") == modules[0]["said"]
    focus(browser, "#map [aria-pressed=true]")
    press(browser, keys.ARROW_RIGHT, keys.ENTER)
    assert text(browser, "#chosen") == modules[1]["said"]


def test_the_kept_step_is_drawn_where_it_is(browser: Any, pages: dict[str, Path]) -> None:
    open_page(browser, pages["run"])
    assert "kept: the weights of step 6 of 9" in text(browser, "#numbers")
    cut, dots = browser.execute_script(
        "return [Number(document.querySelector('#losses .cut').getAttribute('x1')),"
        " [...document.querySelectorAll('#losses circle.second')].map((e) => Number(e.getAttribute('cx')))]"
    )
    assert len(dots) == 3 and cut == pytest.approx(dots[1], abs=0.06) and cut != dots[2]
