"""Intel's dpnp in CuPy's place: a device library of independent make, whose arrays refuse NumPy's as CuPy's do.

Its device may be a CPU. TLORA_BACKEND=dpnp has the device's tests run on it; README.md says how to install it.
"""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class _Add:
    """dpnp's addition with `at`, the one function of those asked for that dpnp lacks: by way of the host."""

    def __init__(self, dpnp: Any) -> None:
        self.dpnp = dpnp

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.dpnp.add(*arguments, **options)

    def at(self, target: Any, rows: Any, values: Any) -> None:
        host, places, more = (self.dpnp.asnumpy(x) for x in (target, rows, values))
        np.add.at(host, places, more)
        target[...] = self.dpnp.asarray(host)


class _Renamed(ModuleType):
    """CuPy's name, dpnp's functions."""

    def __init__(self, dpnp: Any) -> None:
        super().__init__("cupy")
        self.dpnp = dpnp

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dpnp, name)


def make() -> dict[str, ModuleType]:
    """`cupy` and what hangs below it, for sys.modules; and under dpnp's own name, by which its arrays are known."""
    dpnp = importlib.import_module("dpnp")
    cupy = _Renamed(dpnp)
    cupy.add = _Add(dpnp)  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        runtime=SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    )
    special = importlib.import_module("dpnp.scipy.special")
    return {"cupy": cupy, "cupyx": ModuleType("cupyx"), "cupyx.scipy": ModuleType("cupyx.scipy"),
            "cupyx.scipy.special": special}  # fmt: skip
