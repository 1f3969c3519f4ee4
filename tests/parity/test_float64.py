"""The float64 helper itself: no float32 anywhere in any family, and the number that matters really changes."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.families.make_tiny import DISENTANGLED, MODERN  # noqa: E402
from tests.parity.float64 import true_float64, watched  # noqa: E402 (needs torch)

pytestmark = pytest.mark.parity

DECODER = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
ENCODER = {k: DECODER[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")} | {
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
DISTIL = {"vocab_size": 31, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", DECODER),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**DECODER, "sliding_window": 4}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {k: v for k, v in DECODER.items() if k != "head_dim"}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**DECODER, "head_dim": 8}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"vocab_size": 31, "n_embd": 16, "n_layer": 2, "n_head": 4}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", ENCODER),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", {**DECODER, "sliding_window": 4}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**{k: v for k, v in ENCODER.items() if k[0] != "i"}, "ffn_dim": 24}),
    "t5": (
        "T5Config",
        "T5ForConditionalGeneration",
        {
            **{"vocab_size": 31, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4},
            **{"decoder_start_token_id": 0, "pad_token_id": 0},
        },
    ),
    "bert": ("BertConfig", "BertForSequenceClassification", ENCODER),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", ENCODER),
    "modernbert": ("ModernBertConfig", "ModernBertForSequenceClassification", {**MODERN, "pad_token_id": 0}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", {**ENCODER, "embedding_size": 12}),
    "deberta-v2": ("DebertaV2Config", "DebertaV2ForSequenceClassification", {**ENCODER, **DISENTANGLED}),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification", DISTIL),
}


def tiny(family: str, **changes: Any) -> Any:
    config, model, values = FAMILIES[family]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**{**values, **changes})).eval()
    for parameter in made.parameters():
        parameter.data.normal_(std=0.3)
    return made


def inputs(family: str) -> dict[str, Any]:
    ids = torch.randint(3, 31, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = torch.tensor([0, 1]) if FAMILIES[family][1].endswith("ForSequenceClassification") else ids
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize(
    ("family", "implementation"),
    [(f, i) for f in FAMILIES for i in ("eager", "sdpa") if (f, i) != ("deberta-v2", "sdpa")],  # it has eager alone
)
def test_forward_and_backward_hold_no_float32(family: str, implementation: str) -> None:
    model = tiny(family, attn_implementation=implementation)
    with true_float64(model), watched():
        out = model(**inputs(family))
        out.loss.backward()
    assert out.logits.dtype == torch.float64
    assert all(p.grad is None or p.grad.dtype == torch.float64 for p in model.parameters())


def test_the_watch_catches_a_model_that_is_only_double() -> None:
    model = tiny("llama", attn_implementation="eager").double()
    with pytest.raises(AssertionError, match=r"computes in torch\.float32"), watched():
        model(**inputs("llama"))


def test_double_alone_is_not_float64() -> None:
    model = tiny("llama").double()
    with torch.no_grad():
        double = model(**inputs("llama")).logits
        with true_float64(model):
            exact = model(**inputs("llama")).logits
    gap = float((double - exact).abs().max() / exact.abs().max())
    assert 1e-9 < gap < 1e-4


def test_everything_is_put_back() -> None:
    with pytest.raises(RuntimeError, match="on the way"), true_float64():
        assert torch.zeros(1).float().dtype == torch.float64
        raise RuntimeError("on the way")
    assert torch.zeros(1).dtype == torch.float32
    assert torch.zeros(1).double().float().dtype == torch.float32


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_are_those_of_float32(bidirectional: bool) -> None:
    # The bucket of a relative position is a truncated logarithm: a checkpoint was trained with the one float32 gives.
    from transformers.models.t5.modeling_t5 import T5Attention

    positions = torch.arange(-300, 301)[None]
    stock = T5Attention._relative_position_bucket(positions, bidirectional=bidirectional)
    with true_float64():
        inside = T5Attention._relative_position_bucket(positions, bidirectional=bidirectional)
    assert torch.equal(stock, inside)
