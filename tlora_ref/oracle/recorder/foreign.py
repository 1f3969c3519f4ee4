"""What is read off other frameworks' objects, none of which is imported: arrays, modules by name, weights, adapters.

Objects are known by what they have (`named_modules`, `weight`, `lora_A`): PyTorch, PEFT and their likes serve alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from tlora_ref.backend import Array, to_numpy
from tlora_ref.errors import ConfigError, ShapeError

Shapes = Mapping[str, tuple[int, int]]


def host(x: Any) -> Array:
    """A copy of any framework's array on the host; PyTorch's bfloat16 goes by way of float32, exactly."""
    if hasattr(x, "detach"):
        x = x.detach()
        x = (x.float() if dtype_name(x) == "bfloat16" else x).cpu().numpy()
    return np.array(to_numpy(x))


def dtype_name(x: Any) -> str:
    """The dtype as this library spells it: `torch.bfloat16` is "bfloat16"."""
    return str(x.dtype).rpartition(".")[2]


def versions_of(*objects: Any) -> dict[str, str]:
    """{package: version} of the packages that the classes of these objects come from."""
    found = {}
    for package in dict.fromkeys(cls.__module__.partition(".")[0] for x in objects for cls in type(x).__mro__):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def golden_name(theirs: str, shapes: Shapes) -> str:
    """The golden name of a module: `theirs` itself, or what is left of it without a wrapper's prefix."""
    found = [m for m in shapes if theirs == m or theirs.endswith(f".{m}")]
    if not found:
        raise ConfigError(f"{theirs} is none of the golden trace's modules, nor does it end in one: {some(shapes)}")
    return max(found, key=len)


def modules_of(model: Any, shapes: Shapes) -> dict[str, Any]:
    """{golden name: the module of `model` that has it}, wrappers' prefixes (PEFT's, DDP's) left aside.

    ConfigError where one is missing, or where two modules could be meant.
    """
    theirs = dict(model.named_modules())
    found = {}
    for name in shapes:
        fits = [name] if name in theirs else [other for other in theirs if other.endswith(f".{name}")]
        if len(fits) != 1:
            said = f"could be {' or '.join(fits)}" if fits else f"is not in this {type(model).__name__}"
            raise ConfigError(f"recorder: the golden trace's module {name} {said}. Give the model that it was made of")
        found[name] = theirs[fits[0]]
    return found


def weight_of(module: Any) -> Any:
    """The weight that a linear module multiplies with; of an adapted one, its base layer's."""
    return getattr(module, "base_layer", module).weight


def oriented(module: Any, array: Array, shape: tuple[int, int]) -> Array:
    """A weight, or its gradient, as (d_out, d_in); Conv1D keeps (d_in, d_out). ShapeError for another shape."""
    kind = type(getattr(module, "base_layer", module)).__name__
    turned = kind == "Conv1D" or bool(getattr(module, "fan_in_fan_out", False))
    found = array.T if turned or (array.shape == shape[::-1] and array.shape != shape) else array
    if found.shape != shape:
        raise ShapeError(f"recorder: a weight of {kind} is {array.shape}, expected {shape} or its transpose")
    return found


@dataclass(frozen=True)
class LowRank:
    """The adapter of one module: A (r, d_in) and B (d_out, r), the framework's own arrays, and alpha / r."""

    A: Any
    B: Any
    scale: float


def adapters_of(modules: Mapping[str, Any]) -> dict[str, LowRank]:
    """The adapters of those modules that have one, as PEFT and its likes keep them: lora_A, lora_B, scaling.

    Each of the three may be one thing or a dictionary by the adapter's name; A and B may be modules with a `weight`.
    """
    found = {}
    for name, module in modules.items():
        if hasattr(module, "lora_A") and hasattr(module, "lora_B"):
            A, B, scale = (_active(module, getattr(module, part, None)) for part in ("lora_A", "lora_B", "scaling"))
            if A is None or B is None or scale is None:
                continue  # a module that this adapter leaves alone
            _plain(name, module)
            found[name] = LowRank(getattr(A, "weight", A), getattr(B, "weight", B), float(scale))
    if not found:
        raise ConfigError(
            "recorder: none of the golden trace's modules has lora_A, lora_B and scaling. "
            "Give adapters={module: (A, B, scale)}"
        )
    return found


#: What modules with lora_A and lora_B may have beside them, and what they are then.
_BESIDE = {"lora_magnitude_vector": "DoRA", "lora_E": "AdaLoRA", "lora_bias": "LoRA with a bias"}


def _plain(name: str, module: Any) -> None:
    """ConfigError where the module is more than y = W x + s B A x."""
    beside = {kind: _active(module, getattr(module, part, None)) for part, kind in _BESIDE.items()}
    kinds = [kind for kind, has in beside.items() if has is not None and has is not False]
    variant = _active(module, getattr(module, "lora_variant", {}))
    kinds += [type(variant).__name__] if variant and not kinds else []
    if kinds:
        raise ConfigError(
            f"recorder: the adapter of {name} is {' and '.join(kinds)}: TLoRA's modules are y = W x + s B A x (Eq. 1). "
            "Switch it off"
        )


def _active(module: Any, part: Any) -> Any:
    """What the active adapter has of a part that is kept by adapter name."""
    if not hasattr(part, "keys"):
        return part
    active = getattr(module, "active_adapters", None) or getattr(module, "active_adapter", None) or list(part.keys())
    names = [active] if isinstance(active, str) else list(active)
    if len(names) > 1:
        raise ConfigError(f"recorder: {len(names)} adapters are active ({', '.join(names)}): leave one")
    return part[names[0]] if names and names[0] in part.keys() else None  # noqa: SIM118 (a ModuleDict, too)


def some(names: Iterable[str]) -> str:
    """The first names of a list, for a message."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
