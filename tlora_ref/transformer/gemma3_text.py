"""Gemma 3 (Gemma Team, arXiv 2503.19786), its language model: Gemma 2 with the queries and keys normalised head by head
in place of soft caps, and five layers in a window for each that sees everything, the two kinds with a rotary base each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.gemma2 import CappedLM, Gemma2Config, Gemma2Decoder
from tlora_ref.transformer.layer_types import FULL, SLIDING, read_ropes, ropes_dict
from tlora_ref.transformer.llama import Angles
from tlora_ref.transformer.rope import Rope, rotary_tables
from tlora_ref.transformer.settings import Settings

#: Where config.json says the rotary base of each kind of layer, up to transformers 4, and its usual value.
BASES = {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)}


@dataclass(frozen=True)
class Gemma3Config(Gemma2Config):
    """What defines a Gemma 3: `rope` turns the layers that see everything, `local_rope` those in a window."""

    local_rope: Rope = field(default_factory=Rope)
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: float | None = None
    model_type: str = "gemma3_text"

    prefix = "Gemma3"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in Gemma2Config.defaults.items() if not k.endswith("softcapping")},
        "max_position_embeddings": 131072,
    }

    @classmethod
    def read_rope(cls, settings: Settings, head_dim: int) -> dict[str, Any]:
        """Both bases: `rope_theta` and `rope_local_base_freq` (transformers 4), or two `rope_parameters` (5)."""
        ropes = read_ropes(settings, head_dim, BASES, scaled=(FULL,))
        return {"rope": ropes[FULL], "local_rope": ropes[SLIDING]}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.expect("attn_logit_softcapping", [], "Gemma 3 caps no scores")
        return super().own_fields(settings)

    @classmethod
    def implied_layer_types(cls, settings: Settings) -> list[str]:
        pattern = settings.count_or_none("sliding_window_pattern") or 6
        return [SLIDING if (i + 1) % pattern else FULL for i in range(settings.count("num_hidden_layers"))]

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        values = super().to_dict()
        del values["local_rope"]
        ropes = ropes_dict({FULL: self.rope, SLIDING: self.local_rope})
        return {**values, "rope_local_base_freq": self.local_rope.theta, **ropes}


class Gemma3Decoder(Gemma2Decoder):
    """The layers of Gemma 3."""

    @classmethod
    def layer_norms(cls, config: Any) -> dict[str, int]:
        return {**super().layer_norms(config), "self_attn.q_norm": config.head_dim, "self_attn.k_norm": config.head_dim}

    def angles(self, positions: Array, like: Array) -> list[Angles | None]:
        ropes = {FULL: self.config.rope, SLIDING: self.config.local_rope}
        tables = {kind: rotary_tables(rope, self.config.head_dim, positions, like) for kind, rope in ropes.items()}
        return [tables[kind] for kind in self.config.layer_types]

    def queries_keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().queries_keys_values(name, x)
        return self.norm(f"{name}.q_norm", q), self.norm(f"{name}.k_norm", k), v


class Gemma3(Gemma3Decoder, CappedLM):
    """Gemma3ForCausalLM."""


class Gemma3Classifier(Gemma3Decoder, DecoderClassifier):
    """Gemma3TextForSequenceClassification."""
