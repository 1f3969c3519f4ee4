"""Qwen2 and Qwen2.5 (Yang et al., arXiv 2407.10671): Llama with biases on q, k and v, and a window in some layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig
from tlora_ref.transformer.settings import Settings

LAYER_TYPES = ("full_attention", "sliding_attention")


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
        layers = settings.count("num_hidden_layers")
        implied = [LAYER_TYPES[window is not None and i >= first] for i in range(layers)]
        types = settings.take("layer_types", list, implied)
        if len(types) != layers or not set(types) <= set(LAYER_TYPES):
            raise ConfigError(
                f'config.json: "layer_types" is {types}: expected {layers} entries, each one of {LAYER_TYPES}'
            )
        if window is None and LAYER_TYPES[1] in types:
            raise ConfigError(
                'config.json: "layer_types" has "sliding_attention", but "use_sliding_window" and "sliding_window" '
                "set no window"
            )
        settings.seen.add("sliding_window")
        return {
            "use_sliding_window": use,
            "sliding_window": window,
            "max_window_layers": first,
            "layer_types": tuple(types),
        }

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {**super().to_dict(), "layer_types": list(self.layer_types)}


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
        return self.config.sliding_window if self.config.layer_types[layer] == "sliding_attention" else None


class Qwen2Decoder(QwenDecoder):
    """The layers of Qwen2."""

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset(f"self_attn.{p}_proj" for p in "qkv")


class Qwen2(Qwen2Decoder, CausalLM):
    """Qwen2ForCausalLM."""


class Qwen2Classifier(Qwen2Decoder, DecoderClassifier):
    """Qwen2ForSequenceClassification."""
