"""Figures hold what they were drawn from; the committed ones are those of the committed results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.study.test_analysis import run
from tlora_ref.study import read_results
from tlora_ref.study.figures import alternative, draw, drawn_from
from tlora_ref.study.results import Results

STUDIES = Path(__file__).resolve().parents[2] / "examples" / "studies"


def results(**axis: int) -> Results:
    runs = [run(v, 0.1, s, 1.0, 1.0 + s / 10) for v in ("a", "b") for s in (1, 2)]
    return Results({"name": "s", "title": ""}, [*runs, *({**its, **axis} for its in runs)], 8)


def test_every_committed_study_has_its_figure_with_words() -> None:
    page, committed = (STUDIES / "README.md").read_text(encoding="utf-8"), read_results(STUDIES / "results")
    assert len(committed) >= 6
    for found in committed:
        svg = (STUDIES / "figures" / f"{found.name}.svg").read_text(encoding="utf-8")
        assert drawn_from(found) in svg, f"{found.name}.svg is of other results: run make_page.py"
        assert f"![{alternative(found)}](figures/{found.name}.svg)" in page
    assert set(re.findall(r"figures/([\w-]+)\.svg", page)) == {found.name for found in committed}


@pytest.mark.parametrize("axis", [{}, {"rank": 16}, {"samples": 64}])
def test_a_figure_is_the_same_bytes_again(tmp_path: Path, axis: dict[str, int]) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        draw(results(**axis), tmp_path / f"{name}.svg")
    one = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert one == (tmp_path / "two.svg").read_text(encoding="utf-8") and drawn_from(results(**axis)) in one
    label = {"rank": ">r_init<", "samples": ">calibration samples<"}.get(next(iter(axis), ""), "bars: means)<")
    assert label in one


def test_other_losses_are_another_figure() -> None:
    first, second = results(), results()
    second.runs[-1]["test_loss"] += 1e-6
    assert drawn_from(first) != drawn_from(second)


def test_words_say_the_least_first() -> None:
    runs = [run("a", 0.1, 1, 1.0, 2.0), run("b", 0.1, 1, 1.0, 1.5)]
    assert alternative(Results({"name": "s"}, runs, 2)).endswith("least first: b 1.500; a 2.000")
