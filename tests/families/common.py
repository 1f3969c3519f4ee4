"""Tiny decoders of every family, and the checks that each of them must pass. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from tlora_ref.autograd import grad
from tlora_ref.transformer import Model, family
from tlora_ref.transformer.cache import KeyValueCache

#: What a hand-written config.json of each family says (transformers 4's spelling), shrunk.
LLAMA_LIKE = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
#: For families whose own special tokens are beyond this vocabulary.
SPECIALS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**LLAMA_LIKE, "model_type": "llama"},
    "mistral": {**LLAMA_LIKE, "model_type": "mistral", "sliding_window": 4},
    "qwen2": {
        **LLAMA_LIKE,
        **{"model_type": "qwen2", "tie_word_embeddings": True},
        **{"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    },
    "qwen3": {**LLAMA_LIKE, "model_type": "qwen3", "head_dim": 6},
    "gemma": {**LLAMA_LIKE, "model_type": "gemma", "head_dim": 6},
    "gemma2": {
        **LLAMA_LIKE,
        **{"model_type": "gemma2", "head_dim": 6, "sliding_window": 3, "query_pre_attn_scalar": 5},
        **{"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    },
    "gemma3_text": {
        **LLAMA_LIKE,
        **{"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 3, "query_pre_attn_scalar": 5},
        **{"num_hidden_layers": 3, "sliding_window_pattern": 2, "rope_theta": 1e5, "rope_local_base_freq": 50.0},
    },
    "granite": {
        **{**LLAMA_LIKE, "model_type": "granite", "tie_word_embeddings": True},
        **{"embedding_multiplier": 1.7, "attention_multiplier": 0.4, "residual_multiplier": 0.6, "logits_scaling": 1.3},
    },
    "granitemoehybrid": {
        **{**LLAMA_LIKE, "model_type": "granitemoehybrid", "tie_word_embeddings": True, "num_local_experts": 0},
        **{"shared_intermediate_size": 20, "position_embedding_type": "rope", "layer_types": ["attention"] * 2},
        **{"embedding_multiplier": 1.7, "attention_multiplier": 0.4, "residual_multiplier": 0.6, "logits_scaling": 1.3},
        **{"mamba_n_heads": 4, "mamba_d_head": 8},
    },
    "lfm2": {
        **{**LLAMA_LIKE, "model_type": "lfm2", **SPECIALS, "num_hidden_layers": 3, "block_multiple_of": 5},
        **{"full_attn_idxs": [1], "block_ff_dim": 24},
    },
    "ministral3": {
        **{**LLAMA_LIKE, "model_type": "ministral3", "head_dim": 6},
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 4},
            **{"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3},
        },
    },
    "olmo2": {**LLAMA_LIKE, "model_type": "olmo2", **SPECIALS},
    "phi3": {
        **{**LLAMA_LIKE, "model_type": "phi3", **SPECIALS, "hidden_size": 24, "partial_rotary_factor": 0.7},
        **{"sliding_window": 6, "original_max_position_embeddings": 16},
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0]},
    },
    "smollm3": {**LLAMA_LIKE, "model_type": "smollm3", **SPECIALS, "no_rope_layer_interval": 2},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 31,
        "n_positions": 24,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": 30,
        "eos_token_id": 30,
    },
    "gpt_neox": {
        **{k: LLAMA_LIKE[k] for k in LLAMA_LIKE if k != "num_key_value_heads"},
        **{"model_type": "gpt_neox", "rotary_pct": 0.5},
    },
    "starcoder2": {**LLAMA_LIKE, "model_type": "starcoder2", "sliding_window": 4},
    "opt": {
        **{"model_type": "opt", "vocab_size": 31, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0},
        **{"bos_token_id": 2, "eos_token_id": 2},
    },
}
CLASSIFIERS = {
    "llama": "LlamaForSequenceClassification",
    "mistral": "MistralForSequenceClassification",
    "qwen2": "Qwen2ForSequenceClassification",
    "qwen3": "Qwen3ForSequenceClassification",
    "gemma": "GemmaForSequenceClassification",
    "gemma2": "Gemma2ForSequenceClassification",
    "gemma3_text": "Gemma3TextForSequenceClassification",
    "ministral3": "Ministral3ForSequenceClassification",
    "olmo2": "Olmo2ForSequenceClassification",
    "phi3": "Phi3ForSequenceClassification",
    "smollm3": "SmolLM3ForSequenceClassification",
    "gpt2": "GPT2ForSequenceClassification",
    "gpt_neox": "GPTNeoXForSequenceClassification",
    "opt": "OPTForSequenceClassification",
    "starcoder2": "Starcoder2ForSequenceClassification",
}
PAD = 0


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Matrices around 0, norms around 1, biases around 0, large enough for every path to matter."""
    rng = np.random.default_rng(seed)
    return {
        name: 0.3 * rng.standard_normal(shape) + (1.0 if len(shape) == 1 and name.endswith("weight") else 0.0)
        for name, shape in shapes.items()
    }


def made(values: dict[str, Any], seed: int = 0, dtype: str = "float64") -> Model:
    """A random model of a config.json."""
    config_class, model_class = family(values["model_type"], values.get("architectures"))
    config = config_class.from_dict(values)
    tensors = random_tensors(model_class.tensor_shapes(config), seed)
    return model_class(config, {name: x.astype(dtype) for name, x in tensors.items()})


def tiny(model_type: str, seed: int = 0, dtype: str = "float64", **changes: Any) -> Model:
    """A random model of a family; `changes` are keys of its config.json."""
    return made({**CONFIGS[model_type], **changes}, seed, dtype)


def tiny_classifier(model_type: str, seed: int = 0, **changes: Any) -> Model:
    """A random classifier of 3 classes that pads with token 0."""
    head = {"architectures": [CLASSIFIERS[model_type]], "id2label": {"0": "a", "1": "b", "2": "c"}}
    return tiny(model_type, seed, **head, pad_token_id=PAD, **changes)


def every_task(model_type: str, seed: int = 0) -> list[Model]:
    """A language model and, where transformers has one, a classifier."""
    classifiers = [tiny_classifier(model_type, seed)] if model_type in CLASSIFIERS else []
    return [tiny(model_type, seed), *classifiers]


def padded_batch(side: str, rows: tuple[int, ...] = (9, 6, 1), seed: int = 1) -> dict[str, np.ndarray]:
    """Rows of the given lengths, padded on one side; the first two tokens of each are not scored."""
    rng = np.random.default_rng(seed)
    longest = max(rows)
    ids, mask = np.full((len(rows), longest), PAD), np.zeros((len(rows), longest), dtype=np.int64)
    labels = np.full((len(rows), longest), -100)
    for row, length in enumerate(rows):
        at = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[row, at] = rng.integers(1, 31, length)
        mask[row, at] = 1
        labels[row, at] = ids[row, at]
        labels[row, at][: min(2, length)] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def check_finite_differences(model: Model, inputs: dict[str, Any], entries: int = 2, step: float = 1e-5) -> None:
    """A few entries of every tensor's gradient against central differences of the loss."""
    gradients = grad(model(**inputs).loss, list(model.tensors))
    largest = max(float(np.abs(g).max()) for g in gradients.values())
    rng = np.random.default_rng(3)
    for name, x in model.tensors.items():
        for flat in rng.integers(0, x.size, entries):
            index = np.unravel_index(int(flat), x.shape)
            losses = []
            for move in (step, -step):
                moved = x.copy()
                moved[index] += move
                other = type(model)(model.config, {**model.tensors, name: moved})
                losses.append(float(other(**inputs).loss))
            numeric = (losses[0] - losses[1]) / (2 * step)
            assert abs(numeric - gradients[name][index]) <= 1e-6 * largest, (name, index)


def check_padding(model: Model) -> None:
    """A row's logits do not depend on the padding beside it, on either side, nor on what the padding holds."""
    alone = padded_batch("right")
    for side in ("right", "left"):
        batch = padded_batch(side)
        noisy = np.where(batch["attention_mask"] == 1, batch["input_ids"], 17)
        for ids in (batch["input_ids"], noisy):
            logits = model(ids, batch["attention_mask"]).logits
            for row, mask in enumerate(batch["attention_mask"]):
                single = model(alone["input_ids"][row][: mask.sum()]).logits
                np.testing.assert_allclose(logits[row][mask == 1], single, rtol=0, atol=1e-12 * np.abs(single).max())


def check_cache(model: Model, new_tokens: int = 8) -> None:
    """Greedy generation is the same with the cache and without, and batched as one row at a time."""
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "eos_token_id": -1}
    for side in ("right", "left"):
        batch = padded_batch(side, rows=(7, 4))
        ids, mask = batch["input_ids"], batch["attention_mask"]
        cached = model.generate(ids, attention_mask=mask, **options)
        plain = model.generate(ids, attention_mask=mask, use_cache=False, **options)
        assert (cached == plain).all()
        for row, keep in enumerate(mask == 1):
            alone = model.generate(ids[row][keep], **options)
            assert (alone[-new_tokens:] == cached[row, -new_tokens:]).all()
    check_kept_cache(model, options)


def check_kept_cache(model: Model, options: dict[str, Any]) -> None:
    """One cache for several prompts: each goes on from what it has in common with the one before."""
    cache, said = KeyValueCache(), [int(i) for i in padded_batch("right", rows=(7, 4))["input_ids"][0]]
    for prompt in (said[:5], said, [*said[:3], 9, 8], said[:2]):
        there = [] if cache.ids is None else cache.ids[0]
        before = int(np.cumprod([a == b for a, b in zip(there, prompt, strict=False)]).sum())
        made = model.generate(prompt, cache=cache, **options)
        assert made.tolist() == model.generate(prompt, use_cache=False, **options).tolist()
        assert cache.kept == min(before, len(prompt) - 1) or model.horizon is not None
        again = [*(int(i) for i in made), 7, 5]  # the next turn of a conversation
        assert model.generate(again, cache=cache, **options).tolist() == model.generate(again, **options).tolist()
        assert cache.kept == len(made) - 1 or model.horizon is not None  # the last token made was never read
