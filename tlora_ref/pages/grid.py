"""Where a module stands on a map of layers by kinds of module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tlora_ref.names import kinds, place


@dataclass(frozen=True)
class Grid:
    """Rows and columns of a map of modules, and {module: (row, column)}."""

    layers: list[str]
    kinds: list[str]
    places: dict[str, tuple[int, int]]


def grid(modules: Iterable[str]) -> Grid:
    """A row for each layer, a column for each kind of module, in the modules' order."""
    modules = list(modules)
    short = kinds(modules)
    layers = list(dict.fromkeys(place(module)[0] for module in modules))
    columns = list(short)
    places = {module: (layers.index(place(module)[0]), columns.index(place(module)[1])) for module in modules}
    return Grid([layer or "(no layer)" for layer in layers], list(short.values()), places)
