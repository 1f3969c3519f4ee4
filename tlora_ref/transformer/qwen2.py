"""Qwen2 and Qwen2.5 (Yang et al., arXiv 2407.10671): Llama with biases on q, k and v, and a window in some layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.layer_types import FULL, SLIDING, read_layer_types, window_of
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class QwenConfig(LlamaLikeConfig):
    """What Qwen2 and Qwen3 share: `layer_types` says which layers have the window."""

    use_sliding_window: bool = False
    sliding_window: int | None = None
    max_window_layers: int = 28
    layer_types: tuple[str, ...] = ()

    defaults: ClassVar[Mapping[str, Any]] = {
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    }

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        use = settings.take("use_sliding_window", bool, False)
        window = settings.count_or_none("sliding_window") if use else None
        first = settings.take("max_window_layers", int, 28)
        layers = range(settings.count("num_hidden_layers"))
        implied = [SLIDING if window is not None and i >= first else FULL for i in layers]
        settings.seen.add("sliding_window")
        return {
            "use_sliding_window": use,
            "sliding_window": window,
            "max_window_layers": first,
            "layer_types": read_layer_types(settings, implied, window),
        }


@dataclass(frozen=True)
class Qwen2Config(QwenConfig):
    """What defines a Qwen2."""

    model_type: str = "qwen2"

    prefix = "Qwen2"

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.expect("attention_bias", [True], "the biases of q, k and v are implied")
        settings.expect("use_mrope", [False], "positions have one axis")
        return super().own_fields(settings)


class QwenDecoder(LlamaDecoder):
    """What the layers of Qwen2 and Qwen3 share."""

    def window(self, layer: int) -> int | None:
        return window_of(self.config, layer)


class Qwen2Decoder(QwenDecoder):
    """The layers of Qwen2."""

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset(f"self_attn.{p}_proj" for p in "qkv")


class Qwen2(Qwen2Decoder, CausalLM):
    """Qwen2ForCausalLM."""


class Qwen2Classifier(Qwen2Decoder, DecoderClassifier):
    """Qwen2ForSequenceClassification."""
