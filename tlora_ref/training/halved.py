"""Work on a batch, in halves side by side where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tlora_ref.backend import Array, Device
from tlora_ref.data import halves

R = TypeVar("R")
Batch = dict[str, Array]


def in_halves(work: Callable[[Batch], R], batch: Batch, device: Device) -> list[R]:
    """`work` on a large batch's halves side by side (see `halves`), else on all of it: so on a device, which is busy
    with one."""
    parts = halves(batch) if device.name == "cpu" else [batch]
    return [work(batch)] if len(parts) == 1 else device.side_by_side([partial(work, part) for part in parts])
