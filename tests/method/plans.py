"""Plans over modules m0, m1, ... of one shape."""

from __future__ import annotations

import tlora_ref as tr


def plan(S: list[float], r_init: int = 8, alpha: float = 8.0, wide: int = 1000, **options: object) -> tr.Plan:
    names = [f"m{i}" for i in range(len(S))]
    shapes = dict.fromkeys(names, (wide, wide))
    return tr.allocate(dict(zip(names, S, strict=True)), shapes, r_init, alpha, **options)
