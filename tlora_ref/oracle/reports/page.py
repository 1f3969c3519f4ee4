"""A report as one page of HTML that needs nothing but itself: no script, no network, light or dark as the reader's."""

from __future__ import annotations

import math
from pathlib import Path

from tlora_ref.oracle.reports.about import facts
from tlora_ref.oracle.reports.sheet import FOLLOWS, RIGHT, SAID, UNJUDGED, WRONG, Entry, Sheet
from tlora_ref.pages import render

TEMPLATE = Path(__file__).with_name("verdict.html")

#: Lines of what is wrong that a page shows; the JSON and JUnit files have all.
SHOWN = 200

SIGNS = {RIGHT: "✓", WRONG: "✗", FOLLOWS: "↳", UNJUDGED: "·", SAID: "i"}


def html_page(sheet: Sheet) -> str:
    """The page's text. Every text that comes from a trace or a candidate is escaped."""
    wrong = [entry for entry in sheet.entries if entry.meaning == WRONG]
    return render(
        TEMPLATE,
        sheet=sheet,
        stages=[_stage(sheet, stage, paper) for stage, paper in sheet.places.items()],
        rows=[
            (where, [_cell(cells.get(stage, [])) for stage in sheet.places]) for where, cells in sheet.cells().items()
        ],
        wrong=wrong[:SHOWN],
        more=max(0, len(wrong) - SHOWN),
        follows=sum(entry.meaning == FOLLOWS for entry in sheet.entries),
        unjudged=sorted({entry.line for entry in sheet.entries if entry.meaning in (UNJUDGED, SAID)})[:SHOWN],
        facts=list(facts(sheet.about)),
        signs=SIGNS,
    )


def _stage(sheet: Sheet, stage: str, paper: str) -> dict[str, object]:
    """A row of the table of stages: what was found, and the entry that is nearest to its bound or furthest beyond."""
    mine = [entry for entry in sheet.entries if entry.stage == stage]
    counts = [(meaning, sum(e.meaning == meaning for e in mine)) for meaning in SIGNS]
    meaning = next((m for m in (WRONG, FOLLOWS, RIGHT) if any(e.meaning == m for e in mine)), UNJUDGED)
    worst = max((e for e in mine if e.share is not None), key=lambda e: e.share or 0.0, default=None)
    said = ", ".join(f"{many} {what}" for what, many in counts if many) or "not recorded"
    return {"stage": stage, "paper": paper, "meaning": meaning, "said": said, "worst": worst, "bar": bar(worst)}


def bar(entry: Entry | None) -> int | None:
    """How long error/bound is drawn, in percent: on a logarithm from 1e-6 (0) over 1 (50, the bound) to 1e6 (100)."""
    if entry is None or entry.share is None:
        return None
    return round(50 + 50 * max(-6.0, min(6.0, math.log10(max(entry.share, 1e-300)))) / 6)


def _cell(entries: list[Entry]) -> dict[str, str]:
    """One field of stages by modules: the most urgent of its entries, all of them when pointed at."""
    if not entries:
        return {"meaning": "", "text": "", "title": ""}
    first = entries[0]
    share = "" if first.share is None else f" {first.share:.1g}"
    return {
        "meaning": first.meaning.replace(" ", "-"),
        "text": f"{SIGNS[first.meaning]}{share}",
        "title": "\n".join(entry.line for entry in entries[:12]),
    }
