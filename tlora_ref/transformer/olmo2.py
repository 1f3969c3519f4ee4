"""OLMo 2 (Team OLMo, arXiv 2501.00656): Llama with norms after attention and MLP instead of before them, and the
queries and keys normalised over all heads at once.

    for each layer:
        x = x + norm( o( attention( rope(norm(q(x))), rope(norm(k(x))), v(x) ) ) )
        x = x + norm( down( silu(gate(x)) * up(x) ) )
    logits = norm(x) @ W_out^T
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, add
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig, Surroundings
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class Olmo2Config(LlamaLikeConfig):
    """What defines an OLMo 2."""

    attention_bias: bool = False
    model_type: str = "olmo2"

    prefix = "Olmo2"
    defaults: ClassVar[Mapping[str, Any]] = {"rms_norm_eps": 1e-5, "pad_token_id": 1, "eos_token_id": 50279}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.expect("clip_qkv", [], "OLMo 2 clips nothing")
        return {"attention_bias": settings.take("attention_bias", bool, False)}


class Olmo2Decoder(LlamaDecoder):
    """The layers of OLMo 2."""

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset(f"self_attn.{p}_proj" for p in "qkvo") if config.attention_bias else frozenset()

    @classmethod
    def layer_norms(cls, config: Any) -> dict[str, int]:
        d_q, d_kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        after = dict.fromkeys(("post_attention_layernorm", "post_feedforward_layernorm"), config.hidden_size)
        return {**after, "self_attn.q_norm": d_q, "self_attn.k_norm": d_kv}

    def layer(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        x = add(x, self.norm(f"{name}.post_attention_layernorm", self.attention(f"{name}.self_attn", x, around)))
        return add(x, self.norm(f"{name}.post_feedforward_layernorm", self.mlp(f"{name}.mlp", x)))

    def queries_keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k = (self.norm(f"{name}.{p}_norm", self.linear(f"{name}.{p}_proj", x)) for p in "qk")
        return self.in_heads(q), self.in_heads(k), self.in_heads(self.linear(f"{name}.v_proj", x))


class Olmo2(Olmo2Decoder, CausalLM):
    """Olmo2ForCausalLM."""


class Olmo2Classifier(Olmo2Decoder, DecoderClassifier):
    """Olmo2ForSequenceClassification."""
