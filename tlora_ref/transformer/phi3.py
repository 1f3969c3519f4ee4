"""Phi-3, Phi-3.5 and Phi-4-mini (Abdin et al., arXiv 2404.14219; arXiv 2503.01743): Llama with q, k and v from one
matrix and gate and up from another, of each head the first channels turned, and LongRoPE beyond the trained length.

`qkv_proj` makes all queries, then all keys, then all values; `gate_up_proj` all gates, then all ups. An adapter sits on
the fused modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, split
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import Angles
from tlora_ref.transformer.mistral import MistralConfig, MistralDecoder
from tlora_ref.transformer.mlp import gated_halves, inside_mlp
from tlora_ref.transformer.rope import TRAINED, read_partial_rope, rotary_tables
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class Phi3Config(MistralConfig):
    """What defines a Phi-3; `d_rotary` channels of each head turn, `partial_rotary_factor` of all."""

    d_rotary: int = 0
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None
    model_type: str = "phi3"

    prefix = "Phi3"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, TRAINED: 4096},
        **{"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
    }

    @classmethod
    def respelled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The rope type "longrope" by its earlier names."""
        for key in ("rope_scaling", "rope_parameters"):
            given = values.get(key)
            if isinstance(given, dict):
                kinds = {name: "longrope" for name in ("type", "rope_type") if given.get(name) in ("su", "yarn")}
                values = {**values, key: {**given, **kinds}}
        return values

    @classmethod
    def read_rope(cls, settings: Settings, head_dim: int) -> dict[str, Any]:
        rope, d_rotary, part = read_partial_rope(settings, head_dim, "partial_rotary_factor", "rope_theta", 1.0)
        if rope.kind not in ("default", "longrope"):
            raise ConfigError(f'config.json: rope type "{rope.kind}" of a phi3 model: expected "longrope"')
        return {"rope": rope, "d_rotary": d_rotary, "partial_rotary_factor": part}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        for bias in ("attention_bias", "mlp_bias", "lm_head_bias"):
            settings.expect(bias, [False], "no module has a bias")
        for factor in ("full_attn_mod", "interpolate_factor"):
            settings.expect(factor, [1], "as every checkpoint has it")
        return super().own_fields(settings)

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads; of 4's scaling, `type` and the two lists of factors are all."""
        values = super().to_dict()
        del values["d_rotary"]
        if self.rope.kind == "longrope":
            scaling = {"type": "longrope", **self.rope.parameters}
            values |= {TRAINED: int(scaling.pop(TRAINED)), "rope_scaling": scaling}
        return values


class Phi3Decoder(MistralDecoder):
    """The layers of Phi-3."""

    default_targets = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model, d_ff = config.hidden_size, config.intermediate_size
        d_q, d_kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        return {
            "self_attn.qkv_proj": (d_q + 2 * d_kv, d_model),
            "self_attn.o_proj": (d_model, d_q),
            "mlp.gate_up_proj": (2 * d_ff, d_model),
            "mlp.down_proj": (d_model, d_ff),
        }

    @property
    def horizon(self) -> int | None:
        return int(self.config.rope.parameters[TRAINED]) if self.config.rope.kind == "longrope" else None

    def angles(self, positions: Array, like: Array) -> list[Angles | None]:
        tables = rotary_tables(self.config.rope, self.config.d_rotary, positions, like)
        return [tables] * self.config.num_hidden_layers

    def queries_keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d_q, d_kv = (
            n * self.config.head_dim for n in (self.config.num_attention_heads, self.config.num_key_value_heads)
        )
        q, k, v = split(self.linear(f"{name}.qkv_proj", x), [d_q, d_kv, d_kv])
        return self.in_heads(q), self.in_heads(k), self.in_heads(v)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        act = self.config.hidden_act
        inside = inside_mlp(self, [f"{name}.gate_up_proj"], x, lambda both: gated_halves(both, act))
        return self.linear(f"{name}.down_proj", inside)  # of (batch, tokens, d_ff)


class Phi3(Phi3Decoder, CausalLM):
    """Phi3ForCausalLM."""


class Phi3Classifier(Phi3Decoder, DecoderClassifier):
    """Phi3ForSequenceClassification."""
