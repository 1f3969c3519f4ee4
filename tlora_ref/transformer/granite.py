"""Granite 3 (Granite Team, IBM, 2024), the dense models: Llama with four multipliers.

x = m_embedding embed(ids)
for each layer:
    x = x + m_residual o( attention(...) of rms_norm(x), scores times m_attention )
    x = x + m_residual down( silu(gate(n)) * up(n) )      n = rms_norm(x)
logits = rms_norm(x) @ W_out^T / logits_scaling
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, add, scale
from tlora_ref.backend import Array
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig, Surroundings
from tlora_ref.transformer.settings import Settings

MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")


@dataclass(frozen=True)
class GraniteConfig(LlamaLikeConfig):
    """What defines a Granite."""

    attention_bias: bool = False
    mlp_bias: bool = False
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    model_type: str = "granite"

    prefix = "Granite"
    defaults: ClassVar[Mapping[str, Any]] = {"bos_token_id": 1, "eos_token_id": 2, **dict.fromkeys(MULTIPLIERS, 1.0)}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        biases = {key: settings.take(key, bool, False) for key in ("attention_bias", "mlp_bias")}
        return {**biases, **{key: settings.number(key) for key in MULTIPLIERS}}


class GraniteDecoder(LlamaDecoder):
    """The layers of Granite."""

    def embed(self, ids: Array) -> Tensor:
        return scale(super().embed(ids), self.config.embedding_multiplier)

    def layer(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        y = self.attention(f"{name}.self_attn", self.norm(f"{name}.input_layernorm", x), around)
        x = add(x, scale(y, self.config.residual_multiplier))
        y = self.mlp(f"{name}.mlp", self.norm(f"{name}.post_attention_layernorm", x))
        return add(x, scale(y, self.config.residual_multiplier))

    @property
    def score_scale(self) -> float:
        return float(self.config.attention_multiplier)


class Granite(GraniteDecoder, CausalLM):
    """GraniteForCausalLM. transformers has no classifier of this family."""

    @property
    def logit_divisor(self) -> float:
        return float(self.config.logits_scaling)
