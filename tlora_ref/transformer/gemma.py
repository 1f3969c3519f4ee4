"""Gemma (Gemma Team, arXiv 2403.08295): Llama with scaled embeddings, norms that multiply by 1 + weight, and GeGLU.

x = sqrt(d_model) embed(ids)
for each layer:
    x = x + o( attention( rope(q(n)), rope(k(n)), v(n) ) )     n = rms_norm(x), its weight counted from 1
    x = x + down( gelu(gate(n)) * up(n) )                      n = rms_norm(x)
logits = rms_norm(x) @ embed^T
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, rms_norm, scale
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig
from tlora_ref.transformer.settings import Settings

TANH_GELU = "gelu_pytorch_tanh"


@dataclass(frozen=True)
class GemmaConfig(LlamaLikeConfig):
    """What defines a Gemma. `head_dim` has nothing to do with hidden_size / num_attention_heads."""

    attention_bias: bool = False
    model_type: str = "gemma"

    prefix = "Gemma"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192},
        **{"tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
    }

    @classmethod
    def respelled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`hidden_activation` is a later name of `hidden_act`; "gelu" of the first files means its tanh form."""
        given = [values.pop(key, None) for key in ("hidden_act", "hidden_activation")]
        acts = [TANH_GELU if name == "gelu" else name for name in given if name is not None]
        if acts and acts[0] != acts[-1]:
            raise ConfigError(f'config.json: "hidden_act" is {given[0]!r}, but "hidden_activation" {given[1]!r}')
        return {**values, "hidden_act": acts[0] if acts else TANH_GELU}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.expect("use_bidirectional_attention", [False], "each token sees those before it")
        return {"attention_bias": settings.take("attention_bias", bool, False)}


class GemmaDecoder(LlamaDecoder):
    """The layers of Gemma."""

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset(f"self_attn.{p}_proj" for p in "qkvo") if config.attention_bias else frozenset()

    def embed(self, ids: Array) -> Tensor:
        return scale(super().embed(ids), self.config.hidden_size**0.5)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self.parameter(f"{name}.weight"), self.config.rms_norm_eps, offset=1.0)


class Gemma(GemmaDecoder, CausalLM):
    """GemmaForCausalLM."""


class GemmaClassifier(GemmaDecoder, DecoderClassifier):
    """GemmaForSequenceClassification."""
