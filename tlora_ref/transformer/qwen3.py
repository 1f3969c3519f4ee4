"""Qwen3 (Yang et al., arXiv 2505.09388): Qwen2 without implied biases, its queries and keys normalised head by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.qwen2 import QwenConfig, QwenDecoder
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class Qwen3Config(QwenConfig):
    """What defines a Qwen3. `head_dim` has nothing to do with hidden_size / num_attention_heads."""

    attention_bias: bool = False
    model_type: str = "qwen3"

    prefix = "Qwen3"
    defaults: ClassVar[Mapping[str, Any]] = {**QwenConfig.defaults, "head_dim": 128}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        return {**super().own_fields(settings), "attention_bias": settings.take("attention_bias", bool, False)}


class Qwen3Decoder(QwenDecoder):
    """The layers of Qwen3."""

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset(f"self_attn.{p}_proj" for p in "qkvo") if config.attention_bias else frozenset()

    @classmethod
    def layer_norms(cls, config: Any) -> dict[str, int]:
        return {**super().layer_norms(config), "self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim}

    def queries_keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().queries_keys_values(name, x)
        return self.norm(f"{name}.q_norm", q), self.norm(f"{name}.k_norm", k), v


class Qwen3(Qwen3Decoder, CausalLM):
    """Qwen3ForCausalLM."""


class Qwen3Classifier(Qwen3Decoder, DecoderClassifier):
    """Qwen3ForSequenceClassification."""
