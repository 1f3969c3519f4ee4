"""Llama (Touvron et al., arXiv 2302.13971; grouped-query attention as in arXiv 2307.09288).

Legend: batch, tokens; d_model the width; heads query heads of d_head channels; groups key/value heads; d_ff the MLP's.

    x = embed(ids)
    for each layer:
        x = x + o( attention( rope(q(n)), rope(k(n)), v(n) ) )     n = rms_norm(x)
        x = x + down( silu(gate(n)) * up(n) )                      n = rms_norm(x)
    logits = rms_norm(x) @ W_out^T
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    add,
    attention,
    check_activation,
    embedding,
    gated,
    reshape,
    rms_norm,
    rotary,
)
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.rope import Rope, rotary_tables
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class LlamaConfig:
    """What defines a Llama, under transformers' names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope: Rope = field(default_factory=Rope)
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    model_type: str = "llama"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LlamaConfig:
        """From the contents of a config.json; ConfigError for a key that is missing, wrong or unknown."""
        settings = Settings(values, "llama")
        settings.expect("pretraining_tp", [1], "tensor-parallel slicing only changes the order of summation")
        settings.expect("rope_interleaved", [False], "channels are paired half by half")
        config = cls(**read_decoder(settings), mlp_bias=settings.take("mlp_bias", bool, False))
        settings.finish()
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        values = {k: v for k, v in self.__dict__.items() if k != "rope"}
        return {"architectures": ["LlamaForCausalLM"], **values, **self.rope.to_dict()}


def read_decoder(settings: Settings) -> dict[str, Any]:
    """The fields that Llama and its relatives have in common, checked against each other."""
    hidden, heads = settings.count("hidden_size"), settings.count("num_attention_heads")
    groups = settings.count("num_key_value_heads", heads)
    head_dim = settings.count("head_dim", max(1, hidden // heads))
    if heads % groups:
        raise ConfigError(
            f'config.json: "num_attention_heads" {heads} is not a multiple of "num_key_value_heads" {groups}'
        )
    if head_dim % 2:
        raise ConfigError(f'config.json: "head_dim" is {head_dim}: rotary embedding needs an even number')
    return {
        "vocab_size": settings.count("vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": settings.count("intermediate_size"),
        "num_hidden_layers": settings.count("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "rope": Rope.read(settings),
        "hidden_act": check_activation(settings.take("hidden_act", str, "silu")),
        "max_position_embeddings": settings.count("max_position_embeddings", 2048),
        "rms_norm_eps": settings.take("rms_norm_eps", float, 1e-6),
        "tie_word_embeddings": settings.take("tie_word_embeddings", bool, False),
        "attention_bias": settings.take("attention_bias", bool, False),
        "bos_token_id": settings.token_id("bos_token_id"),
        "eos_token_id": settings.token_id("eos_token_id"),
        "pad_token_id": settings.token_id("pad_token_id"),
    }


class Llama(CausalLM):
    """LlamaForCausalLM."""

    config: LlamaConfig
    default_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    @classmethod
    def linear_modules(cls, config: LlamaConfig) -> list[str]:
        attention_and_mlp = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
        layers = [f"model.layers.{i}.{m}" for i in range(config.num_hidden_layers) for m in attention_and_mlp]
        return layers if config.tie_word_embeddings else [*layers, "lm_head"]

    @classmethod
    def tensor_shapes(cls, config: LlamaConfig) -> dict[str, tuple[int, ...]]:
        d_model, d_ff = config.hidden_size, config.intermediate_size
        d_q = config.num_attention_heads * config.head_dim
        d_kv = config.num_key_value_heads * config.head_dim
        attention = {"q": (d_q, d_model), "k": (d_kv, d_model), "v": (d_kv, d_model), "o": (d_model, d_q)}
        mlp = {"gate": (d_ff, d_model), "up": (d_ff, d_model), "down": (d_model, d_ff)}
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, d_model)}
        for i in range(config.num_hidden_layers):
            layer = f"model.layers.{i}"
            for part, matrices, biased in (
                ("self_attn", attention, config.attention_bias),
                ("mlp", mlp, config.mlp_bias),
            ):
                for name, shape in matrices.items():
                    shapes[f"{layer}.{part}.{name}_proj.weight"] = shape
                    if biased:
                        shapes[f"{layer}.{part}.{name}_proj.bias"] = shape[:1]
            shapes[f"{layer}.input_layernorm.weight"] = (d_model,)
            shapes[f"{layer}.post_attention_layernorm.weight"] = (d_model,)
        shapes["model.norm.weight"] = (d_model,)
        if not config.tie_word_embeddings:
            shapes["lm_head.weight"] = (config.vocab_size, d_model)
        return shapes

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: LlamaConfig) -> dict[str, Array]:
        """Drop what older checkpoints store beside the weights: rotary frequencies, a copy of a tied output matrix."""
        dropped = [name for name in tensors if name.endswith(".rotary_emb.inv_freq")]
        if config.tie_word_embeddings:
            dropped.append("lm_head.weight")
        return {name: tensor for name, tensor in tensors.items() if name not in dropped}

    # ------------------------------------------------------------------ forward
    def hidden_states(self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None) -> Tensor:
        x = embedding(self.parameter("model.embed_tokens.weight"), self.device.put(ids))  # (batch, tokens, d_model)
        angles = rotary_tables(self.config.rope, self.config.head_dim, positions, like=x.data)
        see = Visibility(causal=True, keys=None if keep is None else self.device.put(keep))
        for i in range(self.config.num_hidden_layers):
            layer = f"model.layers.{i}"
            normed = self._norm(f"{layer}.input_layernorm", x)
            x = add(x, self._attention(f"{layer}.self_attn", normed, angles, see, cache))
            normed = self._norm(f"{layer}.post_attention_layernorm", x)
            x = add(x, self._mlp(f"{layer}.mlp", normed))
        return self._norm("model.norm", x)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self.parameter(f"{name}.weight"), self.config.rms_norm_eps)

    def _attention(
        self, name: str, x: Tensor, angles: tuple[Array, Array], see: Visibility, cache: KeyValueCache | None
    ) -> Tensor:
        batch, tokens = x.shape[:2]
        d_head = self.config.head_dim

        def heads(projection: str) -> Tensor:  # (batch, tokens, d_model) -> (batch, tokens, heads or groups, d_head)
            return reshape(self.linear(f"{name}.{projection}", x), (batch, tokens, -1, d_head))

        q, k, v = rotary(heads("q_proj"), *angles), rotary(heads("k_proj"), *angles), heads("v_proj")
        if cache is not None:
            k, v = cache.extend(name, k, v)
        y = attention(q, k, v, scale=d_head**-0.5, see=see)  # (batch, tokens, heads, d_head)
        return self.linear(f"{name}.o_proj", reshape(y, (batch, tokens, -1)))

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        gate, up = self.linear(f"{name}.gate_proj", x), self.linear(f"{name}.up_proj", x)  # (batch, tokens, d_ff)
        return self.linear(f"{name}.down_proj", gated(gate, up, self.config.hidden_act))
