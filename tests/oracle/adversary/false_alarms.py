"""Right runs held against golden ones: tiny models by many seeds, and the shapes of real ones.

Vocabularies, widths and lengths are those of real models, one layer of them, so that sums are as long as there: what a
float32 log-sum-exp over 262,144 terms loses no tiny model shows. Weights are random.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tlora_ref as tr
from tests.oracle.adversary.population import goldens
from tests.oracle.adversary.run import candidate
from tests.oracle.adversary.variants import VARIANTS, Variant
from tests.tiny import tiny_llama
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.training import TrainSettings
from tlora_ref.transformer import Model

torch.set_num_threads(1)


@dataclass(frozen=True)
class Shape:
    """Vocabulary, width, and tokens of a sample; `spread` is the standard deviation of the logits."""

    name: str
    vocabulary: int
    width: int
    tokens: int
    spread: float


SHAPES = [
    Shape("Llama-2", 32_000, 256, 24, 3.0),
    Shape("SmolLM2", 49_152, 576, 16, 3.0),
    Shape("Llama-3", 128_256, 64, 16, 2.0),
    Shape("Qwen3", 151_936, 64, 16, 4.0),
    Shape("Gemma", 262_144, 64, 12, 3.0),
    Shape("long samples", 1_000, 64, 2048, 3.0),
]
#: The variants whose sums are long in these shapes.
LONG = ("plain", "loss", "C token", "S entry", "S in the storage", "norms in the storage")


def of_shape(shape: Shape, seed: int = 0) -> tuple[Model, list[dict[str, Any]]]:
    """One layer and two samples; weights that bfloat16 holds."""
    sizes = {"hidden_size": shape.width, "intermediate_size": 2 * shape.width, "vocab_size": shape.vocabulary}
    made = tiny_llama(seed=seed, num_hidden_layers=1, max_position_embeddings=shape.tokens, **sizes)
    rounded = Precision.of("bfloat16").rounded
    tensors = {n: x if x.ndim == 1 else x / 0.3 / np.sqrt(x.shape[1]) for n, x in made.tensors.items()}
    tensors["model.embed_tokens.weight"] *= np.sqrt(shape.width)
    tensors["lm_head.weight"] *= shape.spread
    rng = np.random.default_rng(seed)
    samples = []
    for length in (shape.tokens, shape.tokens - 3):
        ids = rng.integers(1, shape.vocabulary, length).tolist()
        samples.append({"input_ids": ids, "labels": [-100] * (length // 4) + ids[length // 4 :]})
    return type(made)(made.config, {name: rounded(x) for name, x in tensors.items()}), samples


def seeded(seed: int) -> tuple[Model, list[dict[str, Any]]]:
    """A tiny model and its samples; of odd seeds the weights are ones that bfloat16 does not hold."""
    rng = np.random.default_rng(seed)
    made = tiny_llama(seed=seed, hidden_size=int(rng.choice([16, 32, 48])), vocab_size=61)
    rounded = Precision.of("bfloat16").rounded
    tensors = made.tensors if seed % 2 else {name: rounded(x) for name, x in made.tensors.items()}
    samples = []
    for length in rng.integers(6, 20, 4):
        ids = rng.integers(4, 61, int(length)).tolist()
        samples.append({"input_ids": ids, "labels": [-100] * (int(length) // 3) + ids[int(length) // 3 :]})
    return type(made)(made.config, tensors), samples


@dataclass(frozen=True)
class Judged:
    """A right run and its verdicts, with the checkpoint and without."""

    name: str
    reports: list[Report]

    @property
    def alarm(self) -> bool:
        return not all(report.passed for report in self.reports)


def usable(variants: Iterable[Variant]) -> list[Variant]:
    """Those whose framework is here."""
    return [v for v in variants if "JAX" not in v.name or find_spec("jax") is not None]


def judged(name: str, golden: Path, folder: Path, model: Model, precision: str, variant: Variant) -> Judged:
    """One right run, held against the golden one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        candidate(golden, folder / "c", model, precision, variant.made(), variant.adapters)
    reports = [tr.compare(golden, folder / "c", checkpoint=weights) for weights in (model, None)]
    return Judged(f"{name}, {precision}, {variant.name}", reports)


def tiny_runs(runs: int, folder: Path, precisions: Iterable[str], first: int = 0) -> Iterator[Judged]:
    """Every variant in turn, a new tiny model every few runs, from this seed on."""
    variants, done = usable(VARIANTS), 0
    for seed in range(first, first + runs):
        model, samples = seeded(seed)
        (folder / str(seed)).mkdir()
        golden = goldens(folder / str(seed), model, samples, ["plain"])["plain"]
        for precision in precisions:
            for variant in variants[seed % 3 :: 3]:
                if precision not in variant.precisions:
                    continue
                yield judged(f"tiny {seed}", golden, folder, model, precision, variant)
                done += 1
                if done == runs:
                    return


def real_runs(shapes: Iterable[Shape], folder: Path, precisions: Iterable[str]) -> Iterator[Judged]:
    """The variants with long sums in the shapes of real models."""
    for shape in shapes:
        model, samples = of_shape(shape)
        golden = folder / shape.name.replace(" ", "-")
        settings = TrainSettings(batch_size=2, lr=1e-2, schedule="constant", warmup_ratio=0.0)
        tr.trace(model, samples, golden, r_init=2, alpha=2.0, steps=2, settings=settings)
        for precision in precisions:
            for variant in usable(VARIANTS):
                if precision in variant.precisions and variant.name.startswith(LONG):
                    yield judged(shape.name, golden, folder, model, precision, variant)
