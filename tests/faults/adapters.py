"""Subjects of adapters: of every kind of target, ours and PEFT's own, attached to their model and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import tlora_ref as tr
from tests.families.make_tiny import tiny_model
from tests.faults.subject import Subject
from tests.tiny import tiny_llama, tiny_samples

FILES = ("*.json", "*.safetensors")


def adapter(folder: Path) -> None:
    """Ours: of the library's own making, with tlora.json beside it."""
    model = tiny_llama()
    stats = tr.calibrate(model, tiny_samples(2))
    tr.save_peft(tr.initialize(model, stats, tr.allocate(stats.sensitivity, stats.shapes, 2, 4.0)), folder)


def use_adapter(folder: Path) -> None:
    model = tiny_llama()
    model.attach(tr.load_peft(folder))
    model([[3, 4, 5]])


def foreign(
    name: str, shapes: dict[str, tuple[int, ...]], arguments: dict[str, Any] | None = None, **config: Any
) -> Subject:
    """An adapter as PEFT writes one, for a tiny model of `make_tiny`: tensors of these shapes, no tlora.json."""

    def make(folder: Path) -> None:
        rng = np.random.default_rng(0)
        tensors = {f"base_model.model.{key}": rng.standard_normal(s).astype("<f4") for key, s in shapes.items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        values = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none", **config}
        (folder / "adapter_config.json").write_text(json.dumps(values))

    def use(folder: Path) -> None:
        model = tiny_model(name)
        model.attach(tr.load_peft(folder, "float32"))
        model([[3, 4, 5]], **(arguments or {}))

    return Subject(make, use, FILES, weight=2)


def pair(module: str, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
    """The two tensors of rank 2 that PEFT writes for a module; an embedding's have names of their own."""
    if "embed" in module or module.endswith("wte"):
        return {f"{module}.lora_embedding_A": (2, d_in), f"{module}.lora_embedding_B": (d_out, 2)}
    return {f"{module}.lora_A.weight": (2, d_in), f"{module}.lora_B.weight": (d_out, 2)}


def with_model(folder: Path) -> None:
    """An adapter and the checkpoint that it is merged into."""
    tr.save_model(tiny_llama(), folder / "model")
    (folder / "adapter").mkdir()
    adapter(folder / "adapter")


def use_merged(folder: Path) -> None:
    tr.merge_checkpoint(folder / "model", folder / "adapter", folder / "merged")


def _llama(layer: int, module: str) -> str:
    return f"model.layers.{layer}.{module}"


def subjects() -> dict[str, Subject]:
    """By name."""
    hidden = tiny_model("llama").config.hidden_size
    q = {key: s for i in (0, 1) for key, s in pair(_llama(i, "self_attn.q_proj"), hidden, hidden).items()}
    vocabulary = tiny_model("llama").config.vocab_size
    inner = "bert.encoder.layer.0.attention.self.query"
    block = "transformer.h.0.attn.c_attn"
    t5 = "encoder.block.0.layer.0.SelfAttention.q"
    return {
        "adapter": Subject(adapter, use_adapter, FILES, weight=6),
        "adapter-merge": Subject(with_model, use_merged, ("*/*.json", "*/*.safetensors"), weight=3),
        "adapter-peft": foreign(
            "llama",
            q,
            target_modules=["q_proj"],
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={"q_proj": 8},
            use_rslora=True,
            layers_to_transform=[0, 1],
            layers_pattern="layers",
            exclude_modules=["k_proj"],
        ),
        "adapter-regex": foreign("llama", q, target_modules=r".*\.(q|z)_proj$", fan_in_fan_out=False),
        "adapter-tables": foreign(
            "llama",
            {
                **q,
                **pair("model.embed_tokens", vocabulary, hidden),
                "model.embed_tokens.base_layer.weight": (vocabulary, hidden),
            },
            target_modules=["q_proj", "embed_tokens"],
        ),
        "adapter-whole": foreign(
            "llama",
            {**q, "lm_head.weight": (vocabulary, hidden)},
            target_modules=["q_proj"],
            modules_to_save=["lm_head"],
        ),
        "adapter-conv1d": foreign("gpt2", pair(block, 16, 48), target_modules=[block], fan_in_fan_out=True),
        "adapter-head": foreign(
            "bert",
            {**pair(inner, 16, 16), "classifier.weight": (2, 16), "classifier.bias": (2,)},
            task_type="SEQ_CLS",
            target_modules=[inner],
            modules_to_save=["classifier"],
        ),
        "adapter-t5": foreign(
            "t5", pair(t5, 16, 24), {"decoder_input_ids": [[0, 3]]}, task_type="SEQ_2_SEQ_LM", target_modules=[t5]
        ),
    }
