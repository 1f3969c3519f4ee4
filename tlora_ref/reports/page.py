"""A summary as one page: losses, and a map of layers by kinds of module of every quantity that is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tlora_ref.pages import grid, render
from tlora_ref.provenance import provenance
from tlora_ref.reports.losses import loss_lines, losses_said, thinned
from tlora_ref.reports.summary import ModuleFacts, Summary
from tlora_ref.reports.tables import by_kind

TEMPLATE = Path(__file__).with_name("summary.html")

#: What a module has: the name of the quantity, its value, and how it is written.
QUANTITIES: dict[str, tuple[Callable[[ModuleFacts], float | None], str]] = {
    "rank (Eq. 6)": (lambda facts: facts.rank, "d"),
    "scale (Eq. 7)": (lambda facts: facts.scale, ".3g"),
    "sensitivity S (Eq. 5)": (lambda facts: facts.sensitivity, ".1e"),
    "size of the update, ||s B A||": (lambda facts: facts.update, ".2e"),
}
NONE = "–"


def html_page(summary: Summary, title: str) -> str:
    """The page's text; every text that comes from the folder (its name, modules, versions) is escaped."""
    known = [name for name, (of, _) in QUANTITIES.items() if any(of(m) is not None for m in summary.modules.values())]
    rows = [[module, *(_said(facts, name) for name in known)] for module, facts in summary.modules.items()]
    return render(
        TEMPLATE,
        title=title,
        summary=summary,
        known=known,
        by_kind=by_kind(summary.modules),
        every=(["module", *known], rows),
        said=losses_said(summary),
        thinned=thinned(summary.losses),
        data=page_data(summary, known),
        made_by=provenance()["tlora_ref"],
    )


def page_data(summary: Summary, known: list[str]) -> dict[str, Any]:
    """What the page's script draws, as JSON values."""
    where = grid(summary.modules)
    return {
        "layers": where.layers,
        "kinds": where.kinds,
        "modules": [
            {
                "name": module,
                "place": where.places[module],
                "map": {name: [_short(QUANTITIES[name][0](facts)), _said(facts, name)] for name in known},
                "said": f"{module}: " + ", ".join(f"{name} {_said(facts, name)}" for name in known),
            }
            for module, facts in summary.modules.items()
        ],
        "losses": [
            {"name": name, "points": [[step, _short(loss)] for step, loss in line]}
            for name, line in loss_lines(summary.losses).items()
        ],
        "kept": summary.kept,
        "said": " ".join(f"{line[0].upper()}{line[1:]}." for line in losses_said(summary)),
    }


def _said(facts: ModuleFacts, name: str) -> str:
    of, form = QUANTITIES[name]
    value = of(facts)
    return NONE if value is None else format(value, form)


def _short(value: float | None) -> float | None:
    """Six digits: more than a picture shows, and a page stays small."""
    return None if value is None else float(f"{value:.6g}")
