"""Adapters that touch embedding tables and output matrices, tied or not: PEFT's logits are the right ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from tests.parity.float64 import true_float64  # noqa: E402 (needs torch)
from tlora_ref.checkpoint import load_model, load_peft, save_model, save_peft  # noqa: E402

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(0).integers(0, 31, (2, 9))
SHARP = {"rtol": 0.0, "atol": 1e-10}  # of logits of the order of 1
SMALL: dict[str, Any] = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LLAMA: dict[str, Any] = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2: dict[str, Any] = {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1}
T5: dict[str, Any] = {"vocab_size": 31, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
MODELS: dict[str, Any] = {
    "llama": lambda tie: transformers.LlamaConfig(**LLAMA, tie_word_embeddings=tie),
    "qwen2": lambda tie: transformers.Qwen2Config(**LLAMA, tie_word_embeddings=tie),
    "gpt2": lambda tie: transformers.GPT2Config(**GPT2, eos_token_id=1, tie_word_embeddings=tie),
    "gpt_neox": lambda tie: transformers.GPTNeoXConfig(
        **SMALL, num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=tie
    ),
    "t5": lambda tie: transformers.T5Config(**T5, decoder_start_token_id=0),
}
#: (family, tied, what LoRA targets, what is saved whole, ensure_weight_tying)
CASES: list[tuple[str, bool, list[str], list[str] | None, bool]] = [
    ("llama", True, ["q_proj"], ["embed_tokens"], False),
    ("llama", False, ["q_proj"], ["embed_tokens"], False),
    ("llama", True, ["q_proj"], ["lm_head"], False),
    ("llama", True, ["q_proj"], ["embed_tokens", "lm_head"], False),
    ("llama", False, ["q_proj"], ["embed_tokens", "lm_head"], False),
    ("llama", True, ["q_proj"], ["embed_tokens"], True),
    ("llama", True, ["q_proj"], ["lm_head"], True),
    ("llama", True, ["q_proj", "lm_head"], None, False),
    ("llama", False, ["q_proj", "lm_head"], None, False),
    ("llama", True, ["q_proj", "embed_tokens"], None, False),
    ("llama", False, ["q_proj", "embed_tokens"], None, False),
    ("llama", True, ["q_proj", "embed_tokens"], None, True),
    ("llama", True, ["q_proj", "lm_head"], None, True),
    ("llama", True, ["q_proj", "embed_tokens", "lm_head"], None, False),
    ("llama", True, ["q_proj", "lm_head"], ["embed_tokens"], False),
    ("qwen2", True, ["q_proj"], ["embed_tokens"], False),
    ("gpt2", True, ["c_attn"], ["wte"], False),
    ("gpt2", True, ["c_attn"], ["wte"], True),
    ("gpt2", True, ["c_attn"], ["lm_head"], True),
    ("gpt2", True, ["c_attn", "wte", "wpe"], None, False),
    ("gpt_neox", False, ["dense", "embed_in", "lm_head"], None, False),
    ("gpt_neox", True, ["dense"], ["embed_in"], False),
    ("t5", True, ["q"], ["shared"], False),
    ("t5", True, ["q"], ["embed_tokens"], False),
    ("t5", True, ["q"], ["lm_head"], False),
    ("t5", True, ["q", "shared"], None, False),
    ("t5", True, ["q", "embed_tokens"], None, False),
]


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Rotary tables are made with the model: all of it in true float64."""
    with true_float64():
        yield


def named(case: tuple[str, bool, list[str], list[str] | None, bool]) -> str:
    family, tied, targets, whole, tying = case
    return f"{family}-{'tied' if tied else 'untied'}-{'+'.join(targets)}-{'+'.join(whole or ['none'])}-{tying}"


def base_model(family: str, tied: bool) -> Any:
    torch.manual_seed(0)
    config = MODELS[family](tied)
    auto = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
    model = auto.from_config(config).double().eval()
    for parameter in model.parameters():
        parameter.data.normal_(mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    return model


def logits_of(model: Any, family: str) -> np.ndarray:
    ids = torch.tensor(IDS)
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if family == "t5" else {})).logits.numpy()


def ours(model: Any) -> np.ndarray:
    return model(IDS, **({"decoder_input_ids": IDS} if model.config.model_type == "t5" else {})).logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_adapter_of_theirs(tmp_path: Path, case: tuple[str, bool, list[str], list[str] | None, bool]) -> None:
    family, tied, targets, whole, tying = case
    base = base_model(family, tied)
    base.save_pretrained(tmp_path / "base")
    task = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    config = peft.LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=targets,
        modules_to_save=whole,
        ensure_weight_tying=tying,
        task_type=task,
        fan_in_fan_out=family == "gpt2",
    )
    model = peft.get_peft_model(base, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.3)
    exact = logits_of(model, family)
    model.save_pretrained(tmp_path / "a")
    mine = load_model(tmp_path / "base")
    mine.attach(load_peft(tmp_path / "a"))
    np.testing.assert_allclose(ours(mine), exact, **SHARP)
    save_peft(load_peft(tmp_path / "a"), tmp_path / "again")
    again = peft.PeftModel.from_pretrained(base_model(family, tied), tmp_path / "again").eval()
    np.testing.assert_allclose(logits_of(again, family), exact, **SHARP)
    mine.detach()
    if family == "t5" and "embed_tokens" in [*targets, *(whole or [])]:
        return  # two tables in one T5: no checkpoint says that
    merged = mine.merge(load_peft(tmp_path / "a"))
    np.testing.assert_allclose(ours(merged), exact, **SHARP)
    save_model(merged, tmp_path / "merged", "float64")
    auto = transformers.AutoModelForSeq2SeqLM if family == "t5" else transformers.AutoModelForCausalLM
    theirs = auto.from_pretrained(tmp_path / "merged", dtype=torch.float64).eval()
    np.testing.assert_allclose(logits_of(theirs, family), exact, **SHARP)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "table"),
    [("llama", "model.embed_tokens"), ("gpt2", "transformer.wte"), ("gpt_neox", "gpt_neox.embed_in"), ("t5", "shared")],
)
def test_a_tied_table_that_we_trained_is_peft_s_too(tmp_path: Path, family: str, table: str) -> None:
    from tlora_ref.adapter import allocate, initialize
    from tlora_ref.training import train

    base_model(family, True).save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    shapes = model.shapes()
    adapter = initialize(model, None, allocate(dict.fromkeys(shapes, 1.0), shapes, 2, 3), init="w-svd")
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in IDS]
    train(model, adapter, rows, steps=3, batch_size=2, lr=0.05, also=(table,))
    model.attach(adapter)
    save_peft(adapter, tmp_path / "a")
    theirs = peft.PeftModel.from_pretrained(base_model(family, True), tmp_path / "a").eval()
    np.testing.assert_allclose(logits_of(theirs, family), ours(model), **SHARP)
    again = load_model(tmp_path / "base")
    assert np.abs(ours(again) - ours(model)).max() > 0.1
    kept = load_peft(tmp_path / "a")
    assert set(kept.saved) == set(adapter.saved) == {f"{table}.weight"} and kept.tied == adapter.tied
    again.attach(kept)
    assert np.array_equal(ours(again), ours(model))
    again.detach()
    merged = again.merge(kept)
    assert merged.config.tie_word_embeddings and set(merged.tensors) == set(again.tensors)
    np.testing.assert_allclose(ours(merged), ours(model), **SHARP)
