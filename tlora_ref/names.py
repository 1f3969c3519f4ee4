"""Module paths: the layer and the kind of a module, and numbers told by kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Kinds that a line names before it says how many more there are.
NAMED = 8


def place(module: str) -> tuple[str, str]:
    """A module's layer and its name in it, without numbers: `model.layers.3`, `self_attn.q_proj`; no layer is ""."""
    match = re.match(r"(.*?\.\d+)\.(.+)", module)
    if match is None:
        return "", module
    return match[1], ".".join(part for part in match[2].split(".") if not part.isdigit())


def kinds(modules: Sequence[str]) -> dict[str, str]:
    """{name in a layer: the shortest end of it that no other has}."""
    names = list(dict.fromkeys(place(m)[1] for m in modules))

    def end(name: str, parts: int) -> str:
        return ".".join(name.split(".")[-parts:])

    shortest = {}
    for name in names:
        depth = range(1, name.count(".") + 2)
        alone = (n for n in depth if sum(end(other, n) == end(name, n) for other in names) == 1)
        shortest[name] = end(name, next(alone, depth[-1]))
    return shortest


def by_kind(values: Mapping[str, T]) -> dict[str, list[T]]:
    """{kind: the values of its modules}, from {module: value}."""
    short = kinds(list(values))
    grouped: dict[str, list[T]] = {}
    for module, value in values.items():
        grouped.setdefault(short[place(module)[1]], []).append(value)
    return grouped


def told_by_kind(values: Mapping[str, T], tell: Callable[[list[T]], str]) -> str:
    """One line for a person: each kind and what `tell` says of its modules' values."""
    said = [f"{kind} {tell(its)}" for kind, its in by_kind(values).items()]
    more = f", and {len(said) - NAMED} more kinds" if len(said) > NAMED else ""
    return ", ".join(said[:NAMED]) + more


def span(values: Iterable[float], form: str = ".4g") -> str:
    """The smallest and the largest of `values`, one number where they are the same, "none" without any."""
    found = list(values)
    if not found:
        return "none"
    least, most = format(min(found), form), format(max(found), form)
    return least if least == most else f"{least} to {most}"


def mean(values: Sequence[float], form: str = ".1f") -> str:
    """The mean of `values` for a person."""
    return format(sum(values) / len(values), form)
