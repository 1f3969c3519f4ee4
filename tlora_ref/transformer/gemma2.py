"""Gemma 2 (Gemma Team, arXiv 2408.00118): Gemma with norms after attention and MLP too, every other layer's attention
in a window, and soft caps: cap(z) = c tanh(z / c).

    for each layer:
        x = x + norm( o( attention( rope(q(n)), rope(k(n)), v(n) ) ) )     n = norm(x), scores capped
        x = x + norm( down( gelu(gate(n)) * up(n) ) )                      n = norm(x)
    logits = cap( norm(x) @ embed^T )

Scores are divided by the root of `query_pre_attn_scalar`, whatever the width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, add
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.gemma import TANH_GELU, GemmaConfig, GemmaDecoder
from tlora_ref.transformer.layer_types import FULL, SLIDING, read_layer_types, window_of
from tlora_ref.transformer.llama import Surroundings
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class Gemma2Config(GemmaConfig):
    """What defines a Gemma 2."""

    query_pre_attn_scalar: int = 256
    sliding_window: int | None = 4096
    layer_types: tuple[str, ...] = ()
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    model_type: str = "gemma2"

    prefix = "Gemma2"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{**GemmaConfig.defaults, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096},
        **{"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
    }

    @classmethod
    def respelled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`hidden_activation` is what `hidden_act` is to others; the latter is written beside it and not read."""
        act, beside = values.pop("hidden_activation", None) or TANH_GELU, values.pop("hidden_act", None)
        if beside not in (None, act, "gelu"):
            raise ConfigError(f'config.json: "hidden_act" is {beside!r}, but "hidden_activation" {act!r}')
        return {**values, "hidden_act": act}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        window = settings.count_or_none("sliding_window")
        settings.expect("sliding_window_size", [window], "another name of sliding_window")
        settings.seen.add("cache_implementation")  # how transformers lays out its cache
        return {
            **super().own_fields(settings),
            "query_pre_attn_scalar": settings.count("query_pre_attn_scalar", most=2**63),
            "sliding_window": window,
            "layer_types": read_layer_types(settings, cls.implied_layer_types(settings), window),
            "final_logit_softcapping": settings.number_or_none("final_logit_softcapping"),
            "attn_logit_softcapping": settings.number_or_none("attn_logit_softcapping"),
        }

    @classmethod
    def implied_layer_types(cls, settings: Settings) -> list[str]:
        """The kind of every layer where `layer_types` does not say."""
        return [FULL if i % 2 else SLIDING for i in range(settings.count("num_hidden_layers"))]

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {**super().to_dict(), "hidden_activation": self.hidden_act}


class Gemma2Decoder(GemmaDecoder):
    """The layers of Gemma 2."""

    @classmethod
    def layer_norms(cls, config: Any) -> dict[str, int]:
        places = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        return {f"{place}_layernorm": config.hidden_size for place in places}

    def layer(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        y = self.attention(f"{name}.self_attn", self.norm(f"{name}.input_layernorm", x), around)
        x = add(x, self.norm(f"{name}.post_attention_layernorm", y))
        y = self.mlp(f"{name}.mlp", self.norm(f"{name}.pre_feedforward_layernorm", x))
        return add(x, self.norm(f"{name}.post_feedforward_layernorm", y))

    def window(self, layer: int) -> int | None:
        return window_of(self.config, layer)

    @property
    def score_scale(self) -> float:
        return float(self.config.query_pre_attn_scalar**-0.5)

    @property
    def score_cap(self) -> float | None:
        cap: float | None = self.config.attn_logit_softcapping
        return cap


class CappedLM(CausalLM):
    """A language model that caps its logits where its configuration says so."""

    @property
    def logit_cap(self) -> float | None:
        cap: float | None = self.config.final_logit_softcapping
        return cap


class Gemma2(Gemma2Decoder, CappedLM):
    """Gemma2ForCausalLM."""


class Gemma2Classifier(Gemma2Decoder, DecoderClassifier):
    """Gemma2ForSequenceClassification."""
