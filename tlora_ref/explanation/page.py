"""The page: an explanation's numbers and sentences in the template of this room, one file that fetches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.backend import Array
from tlora_ref.explanation import sentences
from tlora_ref.explanation.choices import NAMES, Choices
from tlora_ref.explanation.found import Explanation
from tlora_ref.explanation.steps import STEPS
from tlora_ref.pages import grid, render
from tlora_ref.provenance import provenance

TEMPLATE = Path(__file__).with_name("explain.html")

#: Points of a drawn spectrum: enough for the eye, few enough for a page of a thousand modules.
POINTS = 48


def html_page(found: Explanation, title: str) -> str:
    """The whole page as HTML. Every text that is not ours (the title, names of modules) is escaped."""
    facts = provenance()
    return render(
        TEMPLATE,
        title=title,
        steps=STEPS,
        names=NAMES,
        plan=found.plan,
        samples=found.samples,
        modules=list(found.plan.shapes),
        means=found.mean_shares(),
        worst={name: _least(found, name) for name in NAMES},
        judged=sum(choices is not None for choices in found.choices.values()),
        ahead=found.ahead(),
        data=page_data(found),
        made_by=", ".join(f"{name} {facts[name]}" for name in ("tlora_ref", "numpy", "scipy")),
    )


def page_data(found: Explanation) -> dict[str, Any]:
    """What the page's script draws, as JSON values; its text is made here, so that it can be tested."""
    where = grid(found.plan.shapes)
    return {
        "choices": list(NAMES),
        "layers": where.layers,
        "kinds": where.kinds,
        "history": [[entry["step"], _short(entry["loss"])] for entry in found.history],
        "training": sentences.of_training(found.history, found.trained),
        "modules": [
            {"name": module, "place": where.places[module], **_module(found, module)} for module in found.plan.shapes
        ],
    }


def _module(found: Explanation, module: str) -> dict[str, Any]:
    plan, choices, update = found.plan, found.choices[module], found.updates.get(module)
    spectra = found.spectra[module]
    d_out, d_in = plan.shapes[module]
    return {
        "shape": f"W {d_out} × {d_in}",
        "C": _thinned(spectra.C),
        "WC": _thinned(spectra.WC),
        "cut": max(1, plan.rank[module]),
        "allocation": [
            ["sensitivity S", f"{plan.sensitivity[module]:.4g}"],
            ["share of all S", f"{plan.share[module]:.4%}"],
            ["R_total times the share", f"{plan.budget * plan.share[module]:.4f}"],
            ["rank by Eq. 6", str(plan.rank_eq6[module])],
            ["rank used", str(plan.rank[module])],
            ["alpha", f"{plan.alpha[module]:.4f}"],
            ["scale", f"{plan.scale(module):.4f}"],
        ],
        "share": None if choices is None else [_short(choices.share[name]) for name in NAMES],
        "phi": None if choices is None else [[round(x, 3) for x in row] for row in choices.phi.tolist()],
        "rows": None if update is None else [_short(x) for x in update.rows.tolist()],
        "map": _map(found, module, choices),
        "said": {
            "sensitivity": sentences.of_sensitivity(plan, module),
            "spectrum": sentences.of_spectrum(spectra, plan.rank[module] or plan.r_init),
            "allocation": sentences.of_allocation(plan, module),
            "choices": sentences.of_choices(choices),
            "similarity": sentences.of_similarity(choices),
            "update": sentences.of_update(update, found.trained),
        },
    }


def _map(found: Explanation, module: str, choices: Choices | None) -> dict[str, list[Any]]:
    """{quantity of the heat map: [its value, as a person reads it]}, [None, "none"] where it is not defined."""
    plan, update = found.plan, found.updates.get(module)
    none = [None, "–"]
    return {
        "S": [_short(plan.sensitivity[module]), f"{plan.sensitivity[module]:.1e}"],
        "rank": [plan.rank[module], str(plan.rank[module])],
        "scale": [_short(plan.scale(module)), f"{plan.scale(module):.2f}"],
        "W C": none if choices is None else [_short(choices.share["W C"]), f"{choices.share['W C']:.2f}"],
        "W-SVD": none if choices is None else [_short(choices.share["W-SVD"]), f"{choices.share['W-SVD']:.2f}"],
        "update": none if update is None else [_short(update.relative), f"{update.relative:.1e}"],
    }


def _least(found: Explanation, name: str) -> float:
    return min((choices.share[name] for choices in found.choices.values() if choices is not None), default=0.0)


def _short(value: float) -> float:
    """Six digits: more than a picture shows, and a page stays small."""
    return float(f"{value:.6g}")


def _thinned(spectrum: Array) -> list[list[float]]:
    """[[index from 1, value over the largest]] at up to POINTS indices that lie evenly on a logarithmic axis."""
    largest = float(spectrum[0]) or 1.0
    indices = np.unique(np.rint(np.geomspace(1, len(spectrum), POINTS)).astype(int))
    return [[int(i), _short(float(spectrum[i - 1]) / largest)] for i in indices]
