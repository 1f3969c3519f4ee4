"""True float64 out of transformers.

transformers computes RMS norms, softmax, rotary tables and losses in float32 even for a `.double()` model. Inside

    with true_float64(model):
        out = model(input_ids)

every request for float32 (`x.float()`, `x.to(torch.float32)`, `dtype=torch.float32`) becomes one for float64, whatever
module of whatever version makes it, so nothing has to be patched by name. Models made or loaded inside the block are in
float64; those given as arguments are converted in place, rotary frequencies computed anew (they were float32's).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Float64(TorchFunctionMode):
    """Rewrites every request for float32 into one for float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(_wider, args), **{name: _wider(value) for name, value in kwargs.items()})


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


class _Watch(TorchDispatchMode):
    """Fails at the first operation that gives anything but float64 where it gives floats."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64:
                raise AssertionError(f"{func} computes in {leaf.dtype} inside a float64 model")
        return result


@contextmanager
def true_float64(*models: torch.nn.Module) -> Iterator[None]:
    """Inside, torch knows no float32; `models` are converted to float64 for good."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Float64():
            for model in models:
                model.double()
                _exact_rotary_frequencies(model)
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def watched() -> Iterator[None]:
    """Inside, an operation that yields another float than float64 is an AssertionError."""
    with _Watch():
        yield


def _exact_rotary_frequencies(model: torch.nn.Module) -> None:
    """Rotary modules made anew from their own config: `.double()` only widened what float32 had rounded."""
    for module in model.modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            exact = type(module)(module.config)
            for name, buffer in exact.named_buffers(recurse=False):
                setattr(module, name, buffer)
            if hasattr(exact, "max_seq_len_cached"):  # the length that dynamic frequencies were last made for
                module.max_seq_len_cached = exact.max_seq_len_cached
