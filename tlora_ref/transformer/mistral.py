"""Mistral (Jiang et al., arXiv 2310.06825): Llama whose tokens see a window of the latest tokens, in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class MistralConfig(LlamaLikeConfig):
    """What defines a Mistral. `sliding_window` None: no window, as in its later versions."""

    sliding_window: int | None = 4096
    model_type: str = "mistral"

    prefix = "Mistral"
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        return {"sliding_window": settings.count_or_none("sliding_window")}


class MistralDecoder(LlamaDecoder):
    """The layers of Mistral."""

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset()

    def window(self, layer: int) -> int | None:
        return self.config.sliding_window


class Mistral(MistralDecoder, CausalLM):
    """MistralForCausalLM."""


class MistralClassifier(MistralDecoder, DecoderClassifier):
    """MistralForSequenceClassification."""
