"""Parameters and memory of an adapter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlora_ref.backend import BFLOAT16
from tlora_ref.checkpoint import read_config
from tlora_ref.checkpoint.load import checked_dtype
from tlora_ref.errors import ConfigError
from tlora_ref.planning.inputs import shared_inputs
from tlora_ref.transformer import Model, classifier
from tlora_ref.transformer.holding import holdable

Shapes = Mapping[str, tuple[int, int]]

#: What takes memory, beside activations: name -> what it is.
HOLDERS = {
    "weights": "W_0, in every worker",
    "covariances": "C, of equal inputs once",
    "covariances_of_a_layer": "of the largest",
    "adapter": "A and B, uniform rank",
    "adamw_moments": "both, of B",
}


#: Ways to keep the weights: name -> (dtype, hold).
KEPT: dict[str, tuple[str, str | None]] = {
    "bfloat16": ("float32", "bfloat16"),
    "float32": ("float32", None),
    "float64": ("float64", None),
}


@dataclass(frozen=True)
class MemoryPlan:
    """What an adapter of a model takes: exact counts.

    Attributes
    ----------
    model_type, rank : the model's family; r_init, the rank that plain LoRA would give every module
    shapes : {target module: (d_out, d_in)}
    covariance_of : {target module: the first that is given the very same input}; they share one covariance
    weights, lora_parameters, frozen_A_parameters : parameters of the model, of plain LoRA's A and B, and of B alone
    holdable : those of `weights` that `hold` keeps in two bytes
    """

    model_type: str
    rank: int
    shapes: dict[str, tuple[int, int]]
    covariance_of: dict[str, str]
    weights: int
    holdable: int
    lora_parameters: int
    frozen_A_parameters: int
    family: type[Model] = field(repr=False)
    settings: Any = field(repr=False)

    @property
    def budget(self) -> int:
        """What the ranks sum to (Alg. 1, line 12)."""
        return len(self.shapes) * self.rank

    def mean_scale(self, alpha: float) -> float:
        """The mean of alpha_i / r_i under plain LoRA's `alpha`."""
        return alpha / self.rank

    def sample_tokens(self, tokens: int) -> int:
        """How long samples of `tokens` tokens are: no longer than the model's context, if it has one."""
        context = self.family(self.settings, {}).context
        return tokens if context is None else min(tokens, context)

    def bytes(self, dtype: str, hold: str | None = None) -> dict[str, int]:
        """Bytes of each of HOLDERS in "float32" or "float64"; with `hold` "bfloat16", most weights take two each."""
        moments = {leader: self.shapes[leader][1] ** 2 for leader in set(self.covariance_of.values())}
        by_layer: Counter[str] = Counter()
        for leader, size in moments.items():
            by_layer[_layer(leader)] += size
        numbers = {
            "weights": self.weights,
            "covariances": sum(moments.values()),
            "covariances_of_a_layer": max(by_layer.values()),
            "adapter": self.lora_parameters,
            "adamw_moments": 2 * self.frozen_A_parameters,
        }
        taken = {name: number * checked_dtype(dtype).itemsize for name, number in numbers.items()}
        if hold is not None:
            taken["weights"] -= self.holdable * (checked_dtype(dtype).itemsize - BFLOAT16.itemsize)
        return taken

    def calibration_bytes(self, dtype: str, layers: int | None = None) -> int:
        """Bytes of the two sets of covariances that calibration holds, the sums and those of the block at work; with
        `layers`, of so many layers at a time, about (the largest layer's, so many times)."""
        taken = self.bytes(dtype)
        whole, layer = taken["covariances"], taken["covariances_of_a_layer"]
        return 2 * (whole if layers is None else min(whole, layers * layer))

    def work(self, dtype: str, hold: str | None = None) -> dict[str, int]:
        """Bytes that each kind of work holds at once, beside activations: {what is done: bytes}."""
        taken = self.bytes(dtype, hold)
        weights, adapter = taken["weights"], taken["adapter"]
        gradient = self.frozen_A_parameters * checked_dtype(dtype).itemsize
        return {
            "generate, evaluate": weights + adapter,
            "train B": weights + adapter + taken["adamw_moments"] + gradient,
            "calibrate layer by layer": weights + self.calibration_bytes(dtype, 1),
            "calibrate at once": weights + self.calibration_bytes(dtype),
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        targets = {
            m: {"shape": list(shape), "covariance_of": self.covariance_of[m]} for m, shape in self.shapes.items()
        }
        counts = {name: getattr(self, name) for name in ("weights", "lora_parameters", "frozen_A_parameters")}
        head = {"model_type": self.model_type, "rank": self.rank, "modules": len(self.shapes), **counts}
        taken = {name: self.bytes(*kept) for name, kept in KEPT.items()}
        work = {name: self.work(*kept) for name, kept in KEPT.items()}
        return {**head, "bytes": taken, "work_bytes": work, "targets": targets}


def plan_memory(
    folder: str | Path,
    rank: int = 8,
    targets: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> MemoryPlan:
    """Parameters and memory of an adapter, from config.json alone.

    Parameters
    ----------
    folder : a Hugging Face folder, or its config.json
    rank : r_init
    targets : module paths, ends of paths or regular expressions; None for the family's own choice
    labels : the classes of the head that a bare encoder gets

    Raises
    ------
    CheckpointError, ConfigError
    """
    if rank < 1:
        raise ConfigError(f"rank is {rank}: expected at least 1")
    settings, family = read_config(folder)
    if labels is not None:
        settings, family = classifier(settings, labels)
    shapes = family.target_shapes(settings, list(targets) if targets else None)
    sizes = {name: int(np.prod(shape, dtype=np.int64)) for name, shape in family.tensor_shapes(settings).items()}
    return MemoryPlan(
        model_type=settings.model_type,
        rank=rank,
        shapes=shapes,
        covariance_of=shared_inputs(family, settings, shapes),
        weights=sum(sizes.values()),
        holdable=sum(sizes[name] for name in holdable(family, settings)),
        lora_parameters=sum(rank * (d_out + d_in) for d_out, d_in in shapes.values()),
        frozen_A_parameters=sum(rank * d_out for d_out, _ in shapes.values()),
        family=family,
        settings=settings,
    )


def _layer(module: str) -> str:
    """A module's path up to the number of its layer; the whole of it where it stands in none."""
    number = re.search(r"\.\d+\.", module)
    return module[: number.end()] if number else module
