"""A summary's modules in two tables: ranks by layer, means by kind of module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tlora_ref.names import kinds, place
from tlora_ref.reports.summary import ModuleFacts

#: Columns, and rows of as many cells.
Table = tuple[list[str], list[list[str]]]


def by_layer(cells: Mapping[str, str]) -> Table:
    """The columns and rows of a table: a row a layer, a column a kind of module."""
    names = kinds(list(cells))
    layers: dict[str, dict[str, str]] = {}
    for module, cell in cells.items():
        layer, name = place(module)
        layers.setdefault(layer, {})[names[name]] = cell
    columns = list(names.values())
    rows = [[layer or "(no layer)", *(found.get(c, "") for c in columns)] for layer, found in layers.items()]
    return ["layer", *columns], rows


def by_kind(modules: Mapping[str, ModuleFacts]) -> Table:
    """The columns and rows of a table: means over the modules of a kind, and the kind's share of the sensitivity."""
    names = kinds(list(modules))
    total = sum(module.sensitivity or 0.0 for module in modules.values())
    rows = []
    for name, short in names.items():
        mine = [module for m, module in modules.items() if place(m)[1] == name]
        S = sum(module.sensitivity or 0.0 for module in mine)
        share = f"{S / total:.1%}" if total else ""
        rows.append([short, str(len(mine)), _mean([x.rank for x in mine], ".1f"), _mean([x.scale for x in mine], ".3f"),
                     share, _mean([x.update for x in mine], ".3g")])  # fmt: skip
    return ["kind", "modules", "mean rank", "mean scale", "share of S", "mean update"], rows


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(float(np.mean(known)), form) if known else ""
