"""The page: whole, escaped, the same every time, from the library's own source and the run's own numbers."""

from __future__ import annotations

import inspect
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.explanation import Explanation
from tlora_ref.explanation.page import POINTS, html_page
from tlora_ref.explanation.steps import STEPS

SAMPLES = tiny_samples(6, seed=4)
SETTINGS = tr.AdapterSettings(rank=3, samples=4)
TRAINING = tr.TrainSettings(steps=3, batch_size=2, lr=0.01)
HOSTILE = "</title></script><script>alert(1)</script> & {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def found() -> Explanation:
    return tr.explain(tiny_llama(seed=1), SAMPLES, settings=SETTINGS, training=TRAINING)


class Elements(HTMLParser):
    """Every element's name and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert match is not None
    values: dict[str, Any] = json.loads(match[1])
    return values


def test_it_fetches_nothing_and_every_link_leads_somewhere(found: Explanation) -> None:
    page = html_page(found, "tiny")
    elements = Elements(page).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in elements:
        assert not attributes.get("src") and tag not in ("img", "iframe", "object", "embed")
        target = attributes.get("href")
        assert target is None or target == "data:," or target[1:] in ids, target
        assert attributes.get("for", ids[0]) in ids and attributes.get("aria-labelledby", ids[0]) in ids
    policy = [a["content"] or "" for t, a in elements if t == "meta" and "http-equiv" in a]
    assert len(policy) == 1 and "default-src 'none'" in policy[0]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page)


def test_every_line_stands_with_its_source(found: Explanation) -> None:
    page = html_page(found, "tiny")
    shown = [unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, flags=re.DOTALL)]
    assert shown == [inspect.getsource(function) for step in STEPS for function in step.functions]
    for step in STEPS:
        assert f'id="{step.panel}"' in page
    lines = " ".join(step.line for step in STEPS)
    assert all(number in lines for number in ("8", "9", "12", "14", "15", "16", "17", "Eq. 1", "Eq. 2"))


def test_names_are_escaped(found: Explanation) -> None:
    page = html_page(found, HOSTILE)
    assert "alert(1)</script>" not in page and page.count("&lt;script&gt;alert(1)") == 2
    assert "{{ 7 * 7 }}" in page  # shown as it is, not computed


def test_the_numbers_on_it_are_the_runs(found: Explanation) -> None:
    plan = found.plan
    data = data_of(html_page(found, "tiny"))
    assert [module["name"] for module in data["modules"]] == list(plan.shapes)
    assert data["history"] == [[e["step"], pytest.approx(e["loss"], rel=1e-5)] for e in found.history]
    for shown in data["modules"]:
        module, choices = shown["name"], found.choices[shown["name"]]
        assert data["layers"][shown["place"][0]] in module and module.endswith(data["kinds"][shown["place"][1]])
        assert choices is not None
        assert shown["share"] == pytest.approx(list(choices.share.values()), rel=1e-5)
        assert shown["C"][0] == [1, 1.0] and shown["C"][-1][0] == plan.shapes[module][1]
        spectrum = found.spectra[module].WC
        assert all(y == pytest.approx(spectrum[i - 1] / spectrum[0], rel=1e-5) for i, y in shown["WC"])
        assert len(shown["WC"]) <= POINTS
        said, wanted = shown["said"], plan.budget * plan.share[module]
        assert f"is {wanted:.3f}, rounded to {plan.rank_eq6[module]}" in said["allocation"]
        assert (
            f"{choices.share['W C']:.1%}" in said["choices"] and f"{choices.phi_directions:.3f}" in said["similarity"]
        )
        if plan.rank[module] == 0:
            assert shown["rows"] is None and "no adapter" in said["allocation"] and "no update" in said["update"]
        else:
            assert "which is rounding" in said["update"] and sum(shown["rows"]) == pytest.approx(1.0, abs=1e-4)


def test_where_A_is_trained_the_page_says_so() -> None:
    released = tr.AdapterSettings(rank=3, samples=4, switches=tr.resolve("released"))
    found = tr.explain(tiny_llama(seed=1), SAMPLES, settings=released, training=TRAINING)
    data = data_of(html_page(found, "tiny"))
    said = [module["said"]["update"] for module in data["modules"] if module["rows"]]
    assert said and all("A was trained too" in text for text in said) and "A and B" in data["training"]
    assert any(update.outside > 1e-3 for update in found.updates.values())


def test_the_file_is_the_same_every_time_and_small(found: Explanation, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        tr.explain(tiny_llama(seed=1), SAMPLES, tmp_path / name, settings=SETTINGS, training=TRAINING, title="tiny")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert a == b == html_page(found, "tiny").encode()
    a_module = len(json.dumps(data_of(a.decode())["modules"])) / len(found.plan.shapes)
    assert 200_000 + 500 * 2 * a_module < 5_000_000  # five hundred modules, twice as wide a spectrum and as many ranks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]
