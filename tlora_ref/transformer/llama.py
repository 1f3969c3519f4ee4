"""Llama (Touvron et al., arXiv 2302.13971; grouped-query attention as in arXiv 2307.09288), and what its relatives
share with it.

Legend: batch, tokens; d_model the width; heads query heads of d_head channels; groups key/value heads; d_ff the MLP's.

    x = embed(ids)
    for each layer:
        x = x + o( attention( rope(q(n)), rope(k(n)), v(n) ) )     n = rms_norm(x)
        x = x + down( silu(gate(n)) * up(n) )                      n = rms_norm(x)
    logits = rms_norm(x) @ W_out^T
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    add,
    attention,
    check_activation,
    gated,
    reshape,
    rms_norm,
    rotary,
)
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.causal import CausalLM, Decoder
from tlora_ref.transformer.classification import DecoderClassifier, head_dict, read_head
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.rope import Rope, rotary_tables
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class LlamaLikeConfig:
    """What defines Llama and each of its relatives, under transformers' names."""

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
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    architecture: str = "LlamaForCausalLM"
    labels: tuple[str, ...] = ()
    model_type: str = "llama"

    #: The family's name in transformers' class names, and its values of keys that a config.json leaves out.
    prefix: ClassVar[str] = "Llama"
    defaults: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the contents of a config.json; ConfigError for a key that is missing, wrong or unknown."""
        settings = Settings(cls.respelled({**cls.defaults, **values}), cls.model_type)
        settings.expect("is_decoder", [False, True], "a decoder either way")
        head = read_head(settings, f"{cls.prefix}ForCausalLM")
        config = cls(**cls._read_common(settings), **head, **cls.own_fields(settings))
        settings.finish()
        return config

    @classmethod
    def respelled(cls, values: dict[str, Any]) -> dict[str, Any]:
        """`values` with the family's own names of common keys replaced by the common ones."""
        return values

    @classmethod
    def read_rope(cls, settings: Settings, head_dim: int) -> dict[str, Any]:
        """The fields of the rotary embedding."""
        return {"rope": Rope.read(settings, head_dim)}

    @classmethod
    def _read_common(cls, settings: Settings) -> dict[str, Any]:
        """The common fields, checked against each other."""
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
            **cls.read_rope(settings, head_dim),
            "hidden_act": check_activation(settings.take("hidden_act", str, "silu")),
            "max_position_embeddings": settings.count("max_position_embeddings", 2048),
            "rms_norm_eps": settings.take("rms_norm_eps", float, 1e-6),
            "tie_word_embeddings": settings.take("tie_word_embeddings", bool, False),
            "bos_token_id": settings.token_id("bos_token_id"),
            "eos_token_id": settings.token_ids("eos_token_id"),
            "pad_token_id": settings.token_id("pad_token_id"),
        }

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        """The fields that this family has beside the common ones."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        apart = ("rope", "architecture", "labels")
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self.__dict__.items() if k not in apart}
        return {**head_dict(self), **values, **self.rope.to_dict()}


@dataclass(frozen=True)
class LlamaConfig(LlamaLikeConfig):
    """What defines a Llama."""

    attention_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.expect("pretraining_tp", [1], "tensor-parallel slicing only changes the order of summation")
        settings.expect("rope_interleaved", [False], "channels are paired half by half")
        return {key: settings.take(key, bool, False) for key in ("attention_bias", "mlp_bias")}


#: cos and sin, as `rope.rotary_tables` makes them.
Angles = tuple[Array, Array]


@dataclass(frozen=True)
class Surroundings:
    """What the attention of a layer needs to know beside its input.

    positions : host integers (1 or batch, tokens)
    angles : cos and sin by which queries and keys turn, None for none
    see : which keys a query may see
    cache : where earlier tokens' keys and values are, or None
    """

    positions: Array
    angles: Angles | None
    see: Visibility
    cache: KeyValueCache | None


class LlamaDecoder(Decoder):
    """The layers of Llama; its relatives override what differs."""

    config: Any
    default_targets: ClassVar[tuple[str, ...]] = tuple(f"{p}_proj" for p in ("q", "k", "v", "o", "gate", "up", "down"))

    last_norm: ClassVar[str] = "model.norm"
    out_projection: ClassVar[str] = "o_proj"

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        """The modules of a layer that have a bias."""
        attention = {f"self_attn.{p}_proj" for p in "qkvo"} if config.attention_bias else set()
        mlp = {f"mlp.{p}_proj" for p in ("gate", "up", "down")} if config.mlp_bias else set()
        return frozenset(attention | mlp)

    @classmethod
    def layer_norms(cls, config: Any) -> dict[str, int]:
        """The norms of a layer and their widths."""
        return dict.fromkeys(("input_layernorm", "post_attention_layernorm"), config.hidden_size)

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer and their (d_out, d_in)."""
        d_model, d_ff = config.hidden_size, config.intermediate_size
        d_q, d_kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        attention = {"q": (d_q, d_model), "k": (d_kv, d_model), "v": (d_kv, d_model), "o": (d_model, d_q)}
        mlp = {"gate": (d_ff, d_model), "up": (d_ff, d_model), "down": (d_model, d_ff)}
        return {
            **{f"self_attn.{name}_proj": shape for name, shape in attention.items()},
            **{f"mlp.{name}_proj": shape for name, shape in mlp.items()},
        }

    @classmethod
    def decoder_modules(cls, config: Any) -> list[str]:
        return [f"model.layers.{i}.{m}" for i in range(config.num_hidden_layers) for m in cls.layer_linears(config)]

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        biases = cls.biases(config)
        layer: dict[str, tuple[int, ...]] = {}
        for module, shape in cls.layer_linears(config).items():
            layer[f"{module}.weight"] = shape
            if module in biases:
                layer[f"{module}.bias"] = shape[:1]
        layer |= {f"{norm}.weight": (width,) for norm, width in cls.layer_norms(config).items()}
        return {
            "model.embed_tokens.weight": (config.vocab_size, config.hidden_size),
            **{f"model.layers.{i}.{name}": layer[name] for i in range(config.num_hidden_layers) for name in layer},
            f"{cls.last_norm}.weight": (config.hidden_size,),
        }

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Drop the rotary frequencies that older checkpoints store."""
        tensors = super().sanitize(tensors, config)
        return {name: x for name, x in tensors.items() if not name.endswith(".rotary_emb.inv_freq")}

    # ------------------------------------------------------------------ forward
    def hidden_states(self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None) -> Tensor:
        x = self.embed(ids)
        angles = self.angles(positions, like=x.data)
        all_before = self.causal(keep)
        for i in range(self.config.num_hidden_layers):
            window = self.window(i)
            see = all_before if window is None else replace(all_before, window=window)
            x = self.layer(f"model.layers.{i}", x, Surroundings(positions, angles[i], see, cache))
        return self.norm(self.last_norm, x)

    def embed(self, ids: Array) -> Tensor:
        """(batch, tokens) ids -> (batch, tokens, d_model)."""
        return self.embedded(self.embedding_name.removesuffix(".weight"), ids)

    def angles(self, positions: Array, like: Array) -> list[Angles | None]:
        """cos and sin by which each layer's queries and keys turn; None in a layer without rotation."""
        tables = rotary_tables(self.config.rope, self.config.head_dim, positions, like)
        return [tables] * self.config.num_hidden_layers

    def window(self, layer: int) -> int | None:
        """How many of the latest tokens a token sees in a layer, itself included; None for all."""
        return None

    def layer(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        """(batch, tokens, d_model), the same again."""
        x = add(x, self.attention(f"{name}.self_attn", self.norm(f"{name}.input_layernorm", x), around))
        return add(x, self.mlp(f"{name}.mlp", self.norm(f"{name}.post_attention_layernorm", x)))

    def norm(self, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self.parameter(f"{name}.weight"), self.config.rms_norm_eps)

    def attention(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        q, k, v = self.queries_keys_values(name, x)
        q, k = self.placed(q, k, around)
        if around.cache is not None:
            k, v = around.cache.extend(name, k, v)
        scale, cap = self.score_scale, self.score_cap
        y = attention(q, k, v, scale=scale, see=around.see, cap=cap)  # (batch, tokens, heads, d_head)
        return self.linear(f"{name}.{self.out_projection}", reshape(y, (*x.shape[:2], -1)))

    def queries_keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (batch, tokens, heads, d_head), k and v (batch, tokens, groups, d_head)."""
        q, k, v = (self.in_heads(self.linear(f"{name}.{p}_proj", x)) for p in "qkv")
        return q, k, v

    def in_heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, n * d_head) -> (batch, tokens, n, d_head)."""
        return reshape(x, (*x.shape[:2], -1, self.config.head_dim))

    def placed(self, q: Tensor, k: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """q and k with their positions in them."""
        return (q, k) if around.angles is None else (rotary(q, *around.angles), rotary(k, *around.angles))

    @property
    def score_scale(self) -> float:
        """What q k^T is multiplied by."""
        return float(self.config.head_dim**-0.5)

    @property
    def score_cap(self) -> float | None:
        """The soft cap of the scores, None for none."""
        return None

    def mlp(self, name: str, x: Tensor) -> Tensor:
        act, modules = self.config.hidden_act, (f"{name}.gate_proj", f"{name}.up_proj")
        inside = inside_mlp(self, modules, x, lambda gate, up: gated(gate, up, act))  # (batch, tokens, d_ff)
        return self.linear(f"{name}.down_proj", inside)


class Llama(LlamaDecoder, CausalLM):
    """LlamaForCausalLM."""


class LlamaClassifier(LlamaDecoder, DecoderClassifier):
    """LlamaForSequenceClassification."""
