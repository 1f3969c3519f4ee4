"""The names of a trace's quantities and the shapes that they have; FORMAT.md says what each is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tlora_ref.errors import ConfigError, ShapeError

TENSORS, MANIFEST = "trace.safetensors", "manifest.json"

#: Name -> shape, where d_out, d_in, r are the module's and None is any length. "" is a name without a module.
SAMPLE_FIELDS = {"input_ids": 1, "labels": None, "decoder_input_ids": 1, "token_type_ids": 1, "attention_mask": 1}

MODULE_SHAPES: dict[str, tuple[Any, ...]] = {
    "covariance": ("d_in", "d_in"),
    "sensitivity": (),
    "rank_eq6": (),
    "rank": (),
    "alpha": (),
    "scale": (),
    "sigma": (None,),
    "A": ("r", "d_in"),
    "merged": ("d_out", "d_in"),
    "weight": ("d_out", "d_in"),
}

SAMPLE_SHAPES: dict[str, tuple[Any, ...]] = {
    "sensitivity": (),
    "tokens": (),
    "input_sum": ("d_in",),
    "input": (None, "d_in"),
    "grad_W": ("d_out", "d_in"),
}

STEP_SHAPES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("grad_B", "B", "exp_avg", "exp_avg_sq"), ("d_out", "r")),
    **dict.fromkeys(("grad_A", "A", "A_exp_avg", "A_exp_avg_sq"), ("r", "d_in")),
}

#: Names without a module -> their number of axes (None: more than one is possible).
PLAIN: dict[str, int | None] = {
    r"sample/\d+/loss": 0,
    r"train/(loss|lr)": 1,
    r"sample/\d+/(logits|input_ids|labels|decoder_input_ids|token_type_ids|attention_mask)": None,
    r"train/\d+/(input_ids|labels|attention_mask|decoder_input_ids|token_type_ids)": None,
}


def axes_of(name: str) -> tuple[tuple[Any, ...] | None, str | None]:
    """The axes of a quantity ("d_out", "d_in", "r", or None for any length; None for any axes), and its module.

    ConfigError for a name that the format lacks.
    """
    for plain, many in PLAIN.items():
        if re.fullmatch(plain, name):
            return None if many is None else (None,) * many, None
    for pattern, table in ((r"sample/\d+/", SAMPLE_SHAPES), (r"train/\d+/", STEP_SHAPES), (r"", MODULE_SHAPES)):
        match = re.fullmatch(pattern + r"([A-Za-z_0-9]+)/(.+)", name)
        if match is not None and match[1] in table:
            return table[match[1]], match[2]
    raise ConfigError(f"trace: {name} is no name of the format; tlora_ref/oracle/traces/FORMAT.md lists them")


def check_name(name: str, shape: Sequence[int], shapes: Mapping[str, tuple[int, int]]) -> tuple[str, int] | None:
    """The module and r, of a name that has an axis of length r.

    ConfigError for a name that the format lacks or a module that is not listed; ShapeError for a wrong shape.
    """
    axes, module = axes_of(name)
    if module is None:
        if axes is not None and len(axes) != len(shape):
            raise ShapeError(f"trace: {name} has shape {tuple(shape)}, expected {len(axes)} axes")
        return None
    if module not in shapes:
        raise ConfigError(f"trace: {name} is of a module that the manifest does not list")
    d_out, d_in = shapes[module]
    expected = [{"d_out": d_out, "d_in": d_in}.get(axis) for axis in axes or ()]
    if len(shape) != len(expected) or any(e is not None and e != n for e, n in zip(expected, shape, strict=True)):
        said = ", ".join(str(axis or "any") for axis in axes or ())
        raise ShapeError(f"trace: {name} has shape {tuple(shape)}, expected ({said}) of a {d_out} x {d_in} module")
    return (module, shape[axes.index("r")]) if axes and "r" in axes else None


def kind_of(name: str) -> str:
    """A name as FORMAT.md writes it: `train/3/B/model.layers.0...` is `train/<t>/B/<m>`."""
    parts = name.split("/")
    if parts[0] in ("sample", "train") and parts[1].isdecimal():
        parts[1] = "<n>" if parts[0] == "sample" else "<t>"
        return "/".join(parts[:3] + ["<m>"] * (len(parts) > 3))
    return name if parts[0] == "train" else f"{parts[0]}/<m>"


def summary(names: Iterable[str]) -> list[str]:
    """What a trace holds, for a person: of samples, of modules (and of how many), of steps."""
    found = Counter(map(kind_of, names))

    def held(prefix: str, *order: str) -> list[str]:
        return [name for name in order if found[f"{prefix}{name}"] or found[f"{prefix}{name}/<m>"]]

    rows = {
        "samples": held("sample/<n>/", *SAMPLE_FIELDS, "loss", "logits", *SAMPLE_SHAPES),
        "modules": [f"{name} {found[f'{name}/<m>']}" for name in held("", *MODULE_SHAPES)],
        "steps": held("train/<t>/", *SAMPLE_FIELDS, *STEP_SHAPES) + held("train/", "loss", "lr"),
    }
    return [f"  {what}: {', '.join(kinds)}" for what, kinds in rows.items() if kinds]
