"""SmolLM3 (Bakouch et al., 2025, huggingface.co/blog/smollm3): Llama in which every fourth layer turns no queries and
keys (NoPE, as in RNoPE, arXiv 2501.18795), and, where a window is in use, those layers alone have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.layer_types import FULL, SLIDING, read_layer_types, window_of
from tlora_ref.transformer.llama import Angles, LlamaDecoder, LlamaLikeConfig
from tlora_ref.transformer.rope import Rope
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class SmolLM3Config(LlamaLikeConfig):
    """What defines a SmolLM3. `no_rope_layers` says of each layer whether it turns: 1, or does not: 0 (sic)."""

    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = None
    no_rope_layers: tuple[int, ...] = ()
    layer_types: tuple[str, ...] = ()
    model_type: str = "smollm3"

    prefix = "SmolLM3"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": True},
        **{"pad_token_id": 128004, "bos_token_id": 128000, "eos_token_id": 128001, "no_rope_layer_interval": 4},
    }

    @classmethod
    def read_rope(cls, settings: Settings, head_dim: int) -> dict[str, Any]:
        return {"rope": Rope.read(settings, head_dim, theta=2e6)}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.seen.update(("max_window_layers", "pretraining_tp"))  # written by its makers, read by no model
        layers, interval = settings.count("num_hidden_layers"), settings.count("no_rope_layer_interval")
        turns = settings.take("no_rope_layers", list, [int((i + 1) % interval != 0) for i in range(layers)])
        if len(turns) < layers or not all(turn in (0, 1) for turn in turns):
            raise ConfigError(f'config.json: "no_rope_layers" is {turns}: expected 0 or 1 for each of {layers} layers')
        use = settings.take("use_sliding_window", bool, False)
        given = settings.count_or_none("sliding_window")
        window = given if use else None
        implied = [FULL if turn or window is None else SLIDING for turn in turns[:layers]]
        return {
            **{key: settings.take(key, bool, False) for key in ("attention_bias", "mlp_bias")},
            "use_sliding_window": use,
            "sliding_window": window,
            "no_rope_layers": tuple(int(turn) for turn in turns[:layers]),
            "layer_types": read_layer_types(settings, implied, window),
        }


class SmolLM3Decoder(LlamaDecoder):
    """The layers of SmolLM3."""

    def angles(self, positions: Array, like: Array) -> list[Angles | None]:
        tables = super().angles(positions, like)
        return [table if turns else None for table, turns in zip(tables, self.config.no_rope_layers, strict=True)]

    def window(self, layer: int) -> int | None:
        return window_of(self.config, layer)


class SmolLM3(SmolLM3Decoder, CausalLM):
    """SmolLM3ForCausalLM."""


class SmolLM3Classifier(SmolLM3Decoder, DecoderClassifier):
    """SmolLM3ForSequenceClassification."""
