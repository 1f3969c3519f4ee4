"""`tlora-ref plan`: counts and memory from a configuration alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlora_ref.checkpoint import read_config
from tlora_ref.cli import options as o
from tlora_ref.cli.show import Screen, size


def plan(
    model: o.ModelFolder,
    config: o.Config = None,
    rank: o.Rank = 8,
    target: o.Targets = None,
    dtype: o.Dtype = "float32",
    json: o.Json = False,
) -> None:
    """Parameters and memory of an adapter, from config.json alone (MODEL: its folder, or the file itself)."""
    screen = Screen(json)
    settings, family = read_config(model)
    shapes = family.target_shapes(settings, target)
    bytes_each = np.dtype(dtype).itemsize
    weights = sum(int(np.prod(shape)) for shape in family.tensor_shapes(settings).values())
    lora = sum(rank * (d_out + d_in) for d_out, d_in in shapes.values())
    frozen = sum(rank * d_out for d_out, _ in shapes.values())
    covariance = sum(d_in * d_in for _, d_in in shapes.values())
    result: dict[str, Any] = {
        "model_type": settings.model_type,
        "modules": len(shapes),
        "rank": rank,
        "weights": weights,
        "lora_parameters": lora,
        "frozen_A_parameters": frozen,
        "bytes": {
            "weights": weights * bytes_each,
            "covariances_at_most": covariance * bytes_each,
            "adapter": lora * bytes_each,
            "adamw_moments": 2 * frozen * bytes_each,
        },
    }
    screen.say(f"{settings.model_type}: {weights:,} weights, {len(shapes)} target modules, rank {rank}")
    screen.say(f"  LoRA, A and B trained:         {lora:>15,} parameters")
    screen.say(f"  frozen A, uniform rank, B:     {frozen:>15,} parameters")
    screen.say("  TLoRA's own count depends on the data: `tlora-ref init` prints it")
    for name, number in result["bytes"].items():
        screen.say(f"  memory, {name.replace('_', ' ')}: {size(number)} ({dtype})")
    screen.finish(result)
