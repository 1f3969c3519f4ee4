"""What the modules of a model are given in a pass."""

from __future__ import annotations

from collections.abc import Collection

from tlora_ref.backend import Array


class ModuleInputs:
    """An observer (see `Model.observing`) that keeps the inputs of `modules`.

    of : {module: the arrays (..., d_in) that it was applied to, in their order}; there are several where a module is
        used more than once in a pass
    """

    def __init__(self, modules: Collection[str]) -> None:
        self.modules = modules
        self.of: dict[str, list[Array]] = {}

    def __call__(self, module: str, x: Array) -> None:
        if module in self.modules:
            self.of.setdefault(module, []).append(x)

    @property
    def leader(self) -> dict[str, str]:
        """{module: the first module that is given the very same arrays}, in the order of their first use."""
        first: dict[tuple[int, ...], str] = {}  # the arrays are kept, so that no id is used twice
        return {module: first.setdefault(tuple(map(id, arrays)), module) for module, arrays in self.of.items()}
