"""Tiny models and samples that several test folders use."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlora_ref.transformer import Model, family


def tiny_llama(seed: int = 0, dtype: str = "float64", **changes: Any) -> Model:
    """A random Llama of a few thousand weights: 2 layers, width 16, 4 heads, 2 groups, 31 tokens."""
    values = {
        "model_type": "llama",
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        **changes,
    }
    config_class, model_class = family("llama")
    config = config_class.from_dict(values)
    rng = np.random.default_rng(seed)
    tensors = {
        name: (1.0 + 0.1 * rng.standard_normal(shape) if len(shape) == 1 else 0.3 * rng.standard_normal(shape))
        for name, shape in model_class.tensor_shapes(config).items()
    }
    return model_class(config, {name: x.astype(dtype) for name, x in tensors.items()})


def tiny_samples(n: int, seed: int = 0, vocab: int = 31, length: tuple[int, int] = (5, 12)) -> list[dict[str, Any]]:
    """Random samples of varying length; the first third of each is a prompt and not scored."""
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(n):
        ids = rng.integers(0, vocab, int(rng.integers(*length))).tolist()
        cut = len(ids) // 3
        samples.append({"input_ids": ids, "labels": [-100] * cut + ids[cut:]})
    return samples
