"""DeBERTa v2 and v3 (He et al., arXiv 2006.03654, 2111.09543): BERT's encoder whose attention is disentangled.

Legend: T tokens; d the channels of a head; k the span, N = 2 k relative positions; P (N, d_model) their embeddings.

    x = layer_norm( words[ids] )                            (and positions, and token types, where there are tables)
    P = layer_norm( rel_embeddings )
    for each layer, Eq. 4:
        score[t, s] = ( q_t . k_s  +  q_t . kr[delta(t, s)]  +  k_s . qr[delta(t, s)] ) / sqrt(3 d)
        q, k, v = query_proj(x), key_proj(x), value_proj(x);     kr, qr = key_proj(P), query_proj(P)
    delta(t, s) = bucket(t - s) + k, cut to 0 .. 2 k - 1

Buckets are single distances up to k / 2 and grow as the logarithm beyond (`log_buckets`). The products are called
content to content, content to position (c2p) and position to content (p2c); those left out by `pos_att_type` count
neither in the sum nor under the root. The paper writes delta(s, t) in the last: released models were trained with
delta(t, s).

With `share_att_key`, query_proj and key_proj are applied to two inputs in each pass, x and P: TLoRA's X (Alg. 1, line
9) are the rows of both.

classifier: logits = classifier( gelu( pooler.dense( x at [CLS] ) ) )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    activation,
    add,
    attention,
    check_activation,
    multiply,
    position_scores,
    reshape,
    scale,
)
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.classification import EncoderClassifier, head_dict, read_head
from tlora_ref.transformer.encoder import Encoder, Names, evenly_where
from tlora_ref.transformer.inputs import padding_mask, token_ids
from tlora_ref.transformer.settings import Settings, told

#: The ways in which contents and positions may meet.
KINDS = ("c2p", "p2c")
RELATIVE = "encoder.rel_embeddings.weight"
RELATIVE_NORM = "encoder.LayerNorm"
#: What projects P where `share_att_key` is not set.
POS_KEY, POS_QUERY = "attention.self.pos_key_proj", "attention.self.pos_query_proj"


@dataclass(frozen=True)
class DebertaV2Config:
    """What defines a DeBERTa v2 or v3, under transformers' names."""

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    norm_rel_ebd: str = "none"
    share_att_key: bool = False
    pos_att_type: tuple[str, ...] = ()
    position_biased_input: bool = True
    pooler_hidden_act: str = "gelu"
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = 0
    architecture: str = "DebertaV2Model"
    labels: tuple[str, ...] = ()
    model_type: str = "deberta-v2"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DebertaV2Config:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({"pad_token_id": 0, **values}, "deberta-v2")
        _refuse_others(settings)
        config = cls(
            vocab_size=settings.count("vocab_size", 128100),
            hidden_size=settings.count("hidden_size", 1536),
            num_hidden_layers=settings.count("num_hidden_layers", 24),
            num_attention_heads=settings.count("num_attention_heads", 24),
            intermediate_size=settings.count("intermediate_size", 6144),
            hidden_act=check_activation(settings.take("hidden_act", str, "gelu")),
            max_position_embeddings=settings.count("max_position_embeddings", 512),
            type_vocab_size=settings.take("type_vocab_size", int, 0),
            layer_norm_eps=settings.take("layer_norm_eps", float, 1e-7),
            **_read_relative(settings),
            position_biased_input=settings.take("position_biased_input", bool, True),
            pooler_hidden_act=check_activation(settings.take("pooler_hidden_act", str, "gelu")),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_id("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, "DebertaV2Model"),
        )
        settings.finish()
        if config.hidden_size % config.num_attention_heads:
            raise ConfigError(
                f'config.json: "hidden_size" {config.hidden_size} is not a multiple of "num_attention_heads" '
                f"{config.num_attention_heads}"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("architecture", "labels")}
        return {**head_dict(self), **values, "pos_att_type": list(self.pos_att_type)}

    @property
    def span(self) -> int:
        """k: half the number of relative positions."""
        if self.position_buckets > 0:
            return self.position_buckets
        return self.longest_distance

    @property
    def longest_distance(self) -> int:
        """From this distance on positions share the last bucket."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings


def _refuse_others(settings: Settings) -> None:
    """What some models of the family have and is not implemented."""
    values = settings.values
    width = values.get("hidden_size", 1536)
    settings.expect("conv_kernel_size", [0], "the convolution beside the first layer, of the xlarge models")
    settings.expect("embedding_size", [width], "embeddings as wide as the layers")
    settings.expect("pooler_hidden_size", [width], "a pooler as wide as the layers")
    heads = values.get("num_attention_heads", 24)
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0
    settings.expect("attention_head_size", [width // heads] if whole else [], "heads that together are hidden_size")
    # Noise of training, the convolution's other keys, and those of pre-training heads.
    settings.seen.update(("pooler_dropout", "conv_act", "conv_groups", "legacy", "tie_word_embeddings"))


def _read_relative(settings: Settings) -> dict[str, Any]:
    """The fields of the relative positions."""
    kinds = settings.take("pos_att_type", (str, list, tuple), ())
    kinds = [kind.strip() for kind in kinds.lower().split("|") if kind.strip()] if isinstance(kinds, str) else kinds
    if not all(kind in KINDS for kind in kinds) or len(set(kinds)) < len(kinds):
        raise ConfigError(f'config.json: "pos_att_type" is {told(kinds)}, expected some of {", ".join(KINDS)}')
    norms = settings.take("norm_rel_ebd", str, "none").lower()
    if norms not in ("none", "layer_norm"):
        raise ConfigError(f'config.json: "norm_rel_ebd" is {told(norms)}, expected "layer_norm" or "none"')
    fields = {
        "relative_attention": settings.take("relative_attention", bool, False),
        "max_relative_positions": settings.take("max_relative_positions", int, -1),
        "position_buckets": settings.take("position_buckets", int, -1),
        "share_att_key": settings.take("share_att_key", bool, False),
    }
    return {**fields, "pos_att_type": tuple(kind for kind in KINDS if kind in kinds), "norm_rel_ebd": norms}


def log_buckets(distance: Array, n_buckets: int, longest: int) -> Array:
    """Bucket of every distance (query position - key position): integers of the same shape, of the distance's sign.

    Up to n_buckets / 2 each distance is its own bucket; beyond, buckets grow as the logarithm, and distance longest - 1
    is the last of bucket n_buckets - 1. The paper has no equation for it (v2 brought it); float32, in which
    transformers takes the logarithm, gives the same buckets.
    """
    middle = n_buckets // 2
    apart = np.maximum(np.abs(distance), middle)
    ratio = np.log(apart / middle) / np.log((longest - 1) / middle)
    far = np.ceil(ratio * (middle - 1)).astype(np.int64) + middle
    return np.where(np.abs(distance) <= middle, distance, far * np.sign(distance))


@dataclass(frozen=True)
class Surroundings:
    """What the attention of a layer needs to know beside its input: which keys are seen; P and delta."""

    see: Visibility
    relative: tuple[Tensor, Array] | None


class DebertaV2(Encoder):
    """DebertaV2Model."""

    config: DebertaV2Config
    base = "deberta"
    names = Names(
        layers="encoder.layer",
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        out="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        up="intermediate.dense",
        down="output.dense",
        norm="output.LayerNorm",
    )
    default_targets = (
        *("query_proj", "key_proj", "value_proj"),
        *("attention.output.dense", "intermediate.dense", "output.dense"),
    )
    inside = ("embeddings", "encoder.")

    # ------------------------------------------------------------------ names and shapes
    @classmethod
    def tables(cls, config: Any) -> dict[str, int]:
        tables = {"word_embeddings": config.vocab_size}
        if config.position_biased_input:
            tables["position_embeddings"] = config.max_position_embeddings
        return {**tables, "token_type_embeddings": config.type_vocab_size} if config.type_vocab_size else tables

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        shapes, d_model = super().layer_linears(config), config.hidden_size
        if config.relative_attention and not config.share_att_key:
            own = {"c2p": POS_KEY, "p2c": POS_QUERY}
            shapes |= {own[kind]: (d_model, d_model) for kind in config.pos_att_type}
        return shapes

    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        shapes, d_model = super().tensor_shapes(config), config.hidden_size
        if config.relative_attention:
            shapes[f"{cls.prefix}{RELATIVE}"] = (2 * config.span, d_model)
        if config.norm_rel_ebd == "layer_norm":
            shapes |= {f"{cls.prefix}{RELATIVE_NORM}.{part}": (d_model,) for part in ("weight", "bias")}
        return shapes

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Also without the position table that released files hold and no such model reads."""
        kept, table = super().sanitize(tensors, config), f"{cls.prefix}embeddings.position_embeddings.weight"
        return {name: x for name, x in kept.items() if name != table or config.position_biased_input}

    # ------------------------------------------------------------------ forward
    def encode(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Tensor:
        ids = token_ids(input_ids, self.config.vocab_size)
        keep = padding_mask(attention_mask, ids)
        keys = None if keep is None else self.device.put(keep)
        x = self._embedded(ids, token_type_ids)
        if keys is not None:
            x = multiply(x, Tensor(keys[..., None].astype(x.dtype)))  # padding starts from 0
        around = Surroundings(Visibility(keys=keys), self._relative(ids.shape[1]))
        for layer in self.layer_paths(self.config):
            x = self._norm(f"{layer}.{self.names.attention_norm}", add(x, self._disentangled(layer, x, around)))
            x = self._norm(f"{layer}.{self.names.norm}", add(x, self._mlp(layer, x)))
        return x

    def _relative(self, tokens: int) -> tuple[Tensor, Array] | None:
        """P (N, d_model), and delta of every query and key (tokens, tokens); None without relative positions."""
        config = self.config
        if not config.relative_attention:
            return None
        P = self.parameter(f"{self.prefix}{RELATIVE}")
        if config.norm_rel_ebd == "layer_norm":
            P = self._norm(f"{self.prefix}{RELATIVE_NORM}", P)
        distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
        if config.position_buckets > 0:
            distance = log_buckets(distance, config.position_buckets, config.longest_distance)
        return P, self.device.put(np.clip(distance + config.span, 0, 2 * config.span - 1))

    def _disentangled(self, layer: str, x: Tensor, around: Surroundings) -> Tensor:
        q, k, v = (self._heads(layer, name, x) for name in (self.names.query, self.names.key, self.names.value))
        root = (q.shape[-1] * (1 + len(self.config.pos_att_type))) ** -0.5
        met = [] if around.relative is None else self._with_positions(layer, q, k, *around.relative)
        bias = scale(reduce(add, met), root) if met else None
        y = reshape(attention(q, k, v, scale=root, see=around.see, bias=bias), x.shape)
        if around.see.keys is not None:
            y = evenly_where(~around.see.keys, y, reshape(v, x.shape))  # padding sees nothing
        return self.linear(f"{layer}.{self.names.out}", y)

    def _with_positions(self, layer: str, q: Tensor, k: Tensor, P: Tensor, delta: Array) -> list[Tensor]:
        """The products c2p and p2c, those that the configuration wants: (batch, heads, tokens, tokens) each."""
        key, query = (self.names.key, self.names.query) if self.config.share_att_key else (POS_KEY, POS_QUERY)
        kinds, products = self.config.pos_att_type, []
        if "c2p" in kinds:
            products.append(position_scores(q, self._heads(layer, key, P), delta))
        if "p2c" in kinds:
            products.append(position_scores(k, self._heads(layer, query, P), delta, of_keys=True))
        return products

    def _heads(self, layer: str, module: str, x: Tensor) -> Tensor:
        """(..., d_model) -> (..., heads, d_head)."""
        heads = self.config.num_attention_heads
        return reshape(self.linear(f"{layer}.{module}", x), (*x.shape[:-1], heads, x.shape[-1] // heads))


class DebertaV2Classifier(EncoderClassifier, DebertaV2):
    """DebertaV2ForSequenceClassification."""

    prefix = "deberta."

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model = config.hidden_size
        return {"pooler.dense": (d_model, d_model), "classifier": (len(config.labels), d_model)}

    def head(self, first: Tensor) -> Tensor:
        pooled = activation(self.linear("pooler.dense", first), self.config.pooler_hidden_act)
        return self.linear("classifier", pooled)
