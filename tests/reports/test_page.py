"""A summary's page: escaped, whole, with the summary's own numbers; and what is said of losses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tlora_ref.reports import ModuleFacts, Summary, html_page, loss_lines, losses_said
from tlora_ref.reports.losses import POINTS
from tlora_ref.reports.summary import kept_step

HOSTILE = "</title></script><script>alert(1)</script> & {{ 7 * 7 }}"


def losses(held_out: dict[int, float], steps: int = 6) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"step": step, "loss": 10.0 / step} for step in range(1, steps + 1)]
    least = float("inf")
    for step, loss in held_out.items():
        entries[step - 1] |= {"valid_loss": loss} | ({"best": True} if loss < least else {})
        least = min(least, loss)
    return entries


@pytest.mark.parametrize(
    ("held_out", "flags", "kept"),
    [
        ({2: 3.0, 4: 2.0, 6: 2.5}, "keep: best\n", 4),
        ({2: 3.0, 4: 2.0, 6: 2.5}, "keep: last\n", 6),
        ({2: 3.0, 4: 2.0, 6: 2.5}, None, None),  # a run of tr.train, which may have kept either
        ({2: 3.0, 4: 2.0, 6: 1.5}, None, 6),
        ({}, "keep: best\n", 6),
    ],
)
def test_the_step_that_was_kept(
    tmp_path: Path, held_out: dict[int, float], flags: str | None, kept: int | None
) -> None:
    if flags is not None:
        (tmp_path / "config.yaml").write_text(flags)
    found = kept_step(tmp_path, losses(held_out))
    assert found == kept
    said = losses_said(Summary("a training run", {}, {}, losses(held_out), found))
    assert (f"kept: the weights of step {kept} of 6" in said) == (kept is not None)


def test_a_long_run_is_drawn_by_means() -> None:
    drawn = loss_lines(losses({}, steps=3 * POINTS))["training"]
    assert len(drawn) == POINTS and drawn[0] == (3, pytest.approx((10 + 5 + 10 / 3) / 3)) and drawn[-1][0] == 3 * POINTS
    assert loss_lines([]) == {}


def test_the_page_holds_the_numbers_and_escapes_what_is_not_ours() -> None:
    modules = {f"model.layers.{i}.{HOSTILE}": ModuleFacts(i, 0.5 * i, None, None if i else 0.25) for i in range(3)}
    page = html_page(Summary("an adapter", {HOSTILE: HOSTILE}, modules), HOSTILE)
    assert "alert(1)</script>" not in page and "{{ 7 * 7 }}" in page
    assert "default-src 'none'" in page and not re.search(
        r"https?:(?!//www.w3.org/2000/svg)|url\(|@import|fetch\(", page
    )
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert match is not None
    data = json.loads(match[1])
    assert [module["name"] for module in data["modules"]] == list(modules)
    assert list(data["modules"][0]["map"]) == ["rank (Eq. 6)", "scale (Eq. 7)", "size of the update, ||s B A||"]
    shown = [[value for value, _ in module["map"].values()] for module in data["modules"]]
    assert shown == [[0, 0.0, 0.25], [1, 0.5, None], [2, 1.0, None]]
    assert data["losses"] == [] and 'id="losses"' not in page
