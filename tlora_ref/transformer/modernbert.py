"""ModernBERT (Warner et al., arXiv 2412.13663): an encoder with what decoders learned since BERT.

    x = norm( tok_embeddings[ids] )
    for each layer:
        x = x + Wo( attention( rope(q), rope(k), v ) )     q, k, v = Wqkv(n)     n = norm(x), in the first layer x
        x = x + Wo( gelu(a) * b )                          a, b = Wi(n)          n = norm(x)
    hidden = norm(x)

Every third layer sees all tokens, the others those at most local_attention / 2 away on either side, and the two kinds
have a rotary base each. Norms are layer norms; like the linear modules they have no bias unless the configuration says
so.

classifier: logits = classifier( norm( gelu( head.dense( x at [CLS], or the mean over the tokens ) ) ) )
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    activation,
    add,
    attention,
    check_activation,
    layer_norm,
    reshape,
    rotary,
    split,
    weighted_sum,
)
from tlora_ref.backend import Array, asarray
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.classification import EncoderClassifier, head_dict, read_head
from tlora_ref.transformer.encoder import Encoder, evenly_where
from tlora_ref.transformer.inputs import padding_mask, token_ids
from tlora_ref.transformer.layer_types import FULL, SLIDING, read_layer_types, read_ropes, ropes_dict
from tlora_ref.transformer.mlp import gated_halves, inside_mlp
from tlora_ref.transformer.rope import Rope, rotary_tables
from tlora_ref.transformer.settings import Settings

#: Where config.json says the rotary base of each kind of layer, up to transformers 4, and its usual value.
BASES = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
DEFAULTS = {
    **{"bos_token_id": 50281, "eos_token_id": 50282, "pad_token_id": 50283},
    "max_position_embeddings": 8192,
}
#: Of pre-training, of faster kernels, and what follows from other keys.
UNREAD = (
    *("initializer_cutoff_factor", "decoder_bias", "sparse_prediction", "sparse_pred_ignore_index"),
    *("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad", "embedding_dropout", "cls_token_id"),
    *("tie_word_embeddings", "position_embedding_type", "layer_norm_eps"),
)


@dataclass(frozen=True)
class ModernBertConfig:
    """What defines a ModernBERT, under transformers' names: `rope` turns the layers that see all tokens, `local_rope`
    the others."""

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    layer_types: tuple[str, ...] = ()
    local_attention: int = 128
    rope: Rope = field(default_factory=Rope)
    local_rope: Rope = field(default_factory=Rope)
    classifier_pooling: str = "cls"
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    bos_token_id: int | None = 50281
    eos_token_id: int | None = 50282
    pad_token_id: int | None = 50283
    architecture: str = "ModernBertModel"
    labels: tuple[str, ...] = ()
    model_type: str = "modernbert"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModernBertConfig:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({**DEFAULTS, **values}, "modernbert")
        settings.expect("classifier_pooling", ["cls", "mean"], "the first token or the mean over all")
        settings.seen.update(UNREAD)
        width, heads = settings.count("hidden_size", 768), settings.count("num_attention_heads", 12)
        if width % heads or width // heads % 2:
            raise ConfigError(
                f'config.json: "hidden_size" {width} is not an even number for each of "num_attention_heads" {heads}'
            )
        ropes = read_ropes(settings, width // heads, BASES, scaled=(FULL, SLIDING))
        config = cls(
            vocab_size=settings.count("vocab_size", 50368),
            hidden_size=width,
            intermediate_size=settings.count("intermediate_size", 1152),
            num_hidden_layers=settings.count("num_hidden_layers", 22),
            num_attention_heads=heads,
            hidden_activation=check_activation(settings.take("hidden_activation", str, "gelu")),
            max_position_embeddings=settings.count("max_position_embeddings"),
            norm_eps=settings.take("norm_eps", float, 1e-5),
            norm_bias=settings.take("norm_bias", bool, False),
            attention_bias=settings.take("attention_bias", bool, False),
            mlp_bias=settings.take("mlp_bias", bool, False),
            **_read_layers(settings),
            rope=ropes[FULL],
            local_rope=ropes[SLIDING],
            classifier_pooling=settings.take("classifier_pooling", str, "cls"),
            classifier_bias=settings.take("classifier_bias", bool, False),
            classifier_activation=check_activation(settings.take("classifier_activation", str, "gelu")),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_id("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, "ModernBertModel"),
        )
        settings.finish()
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        apart = ("rope", "local_rope", "architecture", "labels")
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self.__dict__.items() if k not in apart}
        bases = {"global_rope_theta": self.rope.theta, "local_rope_theta": self.local_rope.theta}
        return {**head_dict(self), **values, **bases, **ropes_dict({FULL: self.rope, SLIDING: self.local_rope})}


def _read_layers(settings: Settings) -> dict[str, Any]:
    """Which layers see all tokens, and how far the others see."""
    every = settings.count("global_attn_every_n_layers", 3)
    implied = [SLIDING if i % every else FULL for i in range(settings.count("num_hidden_layers", 22))]
    window = _read_window(settings)
    return {"layer_types": read_layer_types(settings, implied, window), "local_attention": window}


def _read_window(settings: Settings) -> int:
    """`local_attention`, both sides together; transformers takes `sliding_window`, one side of it, in its place."""
    both, side = settings.count_or_none("local_attention"), settings.count_or_none("sliding_window")
    if both is not None and side is not None and both // 2 != side:
        raise ConfigError(
            f'config.json: "local_attention" {both} is a window of {both // 2} tokens on either side, but '
            f'"sliding_window" says {side}: remove the one that the model was not trained with'
        )
    return both or 2 * (side or 64)


class ModernBert(Encoder):
    """ModernBertModel."""

    config: ModernBertConfig
    base = "model"
    inside = ("embeddings.", "layers.", "final_norm.")
    default_targets = ("Wqkv", "Wo", "Wi")

    # ------------------------------------------------------------------ names and shapes
    @classmethod
    def tables(cls, config: Any) -> dict[str, int]:
        return {"tok_embeddings": config.vocab_size}

    @classmethod
    def layer_paths(cls, config: Any) -> list[str]:
        return [f"{cls.prefix}layers.{i}" for i in range(config.num_hidden_layers)]

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model, d_ff = config.hidden_size, config.intermediate_size
        attention = {"attn.Wqkv": (3 * d_model, d_model), "attn.Wo": (d_model, d_model)}
        return {**attention, "mlp.Wi": (2 * d_ff, d_model), "mlp.Wo": (d_model, d_ff)}

    @classmethod
    def norms(cls, config: Any) -> list[str]:
        """Paths of all norms."""
        layers = cls.layer_paths(config)
        of_attention = [f"{layer}.attn_norm" for layer in layers[1:]]  # what enters the first layer is normed already
        ends = [f"{cls.prefix}embeddings.norm", f"{cls.prefix}final_norm"]
        return [*ends, *of_attention, *(f"{layer}.mlp_norm" for layer in layers)]

    @classmethod
    def biased(cls, config: Any) -> list[str]:
        """Paths of the linear modules that have a bias."""
        parts = [part for part, has in ((".attn.", config.attention_bias), (".mlp.", config.mlp_bias)) if has]
        return [module for module in cls.linear_modules(config) if any(part in module for part in parts)]

    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model = config.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            f"{cls.prefix}embeddings.tok_embeddings.weight": (config.vocab_size, d_model)
        }
        linears = {f"{layer}.{m}": s for layer in cls.layer_paths(config) for m, s in cls.layer_linears(config).items()}
        linears |= cls.head_linears(config)
        shapes |= {f"{module}.weight": shape for module, shape in linears.items()}
        shapes |= {f"{module}.bias": linears[module][:1] for module in cls.biased(config)}
        parts = ("weight", "bias") if config.norm_bias else ("weight",)
        return shapes | {f"{norm}.{part}": (d_model,) for norm in cls.norms(config) for part in parts}

    # ------------------------------------------------------------------ forward
    def encode(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Tensor:
        self.refuse(token_type_ids=token_type_ids)
        ids = token_ids(input_ids, self.config.vocab_size)
        keep = padding_mask(attention_mask, ids)
        x = self.embedded(f"{self.prefix}embeddings.tok_embeddings", ids)  # (batch, tokens, d_model)
        x = self._norm(f"{self.prefix}embeddings.norm", x)
        around = {kind: self._surroundings(kind, keep, x.data) for kind in set(self.config.layer_types)}
        for i, layer in enumerate(self.layer_paths(self.config)):
            normed = self._norm(f"{layer}.attn_norm", x) if i else x
            x = add(x, self._self_attention(f"{layer}.attn", normed, around[self.config.layer_types[i]]))
            x = add(x, self._mlp(f"{layer}.mlp", self._norm(f"{layer}.mlp_norm", x)))
        return self._norm(f"{self.prefix}final_norm", x)

    def _surroundings(self, kind: str, keep: Array | None, like: Array) -> Surroundings:
        """What the attention of the layers of a kind needs; `like` (batch, tokens, d_model) is what enters them."""
        config, tokens = self.config, like.shape[1]
        rope, window = (config.rope, None) if kind == FULL else (config.local_rope, config.local_attention // 2 + 1)
        d_head = config.hidden_size // config.num_attention_heads
        angles = rotary_tables(rope, d_head, np.arange(tokens)[None], like)
        see = Visibility(window=window, keys=None if keep is None else self.device.put(keep))
        blind = None
        if keep is not None and window is not None:
            near = np.abs(np.arange(tokens)[:, None] - np.arange(tokens)[None, :]) < window
            blind = ~(keep[:, None, :] & near).any(axis=2)
        return Surroundings(angles, see, None if blind is None or not blind.any() else self.device.put(blind))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        bias = self.parameter(f"{name}.bias") if self.config.norm_bias else None
        return layer_norm(x, self.parameter(f"{name}.weight"), bias, self.config.norm_eps)

    def _self_attention(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        heads, d_model = self.config.num_attention_heads, x.shape[-1]
        q, k, v = (
            reshape(part, (*x.shape[:2], heads, d_model // heads))
            for part in split(self.linear(f"{name}.Wqkv", x), [d_model] * 3)
        )
        q, k = rotary(q, *around.angles), rotary(k, *around.angles)
        y = reshape(attention(q, k, v, scale=(d_model // heads) ** -0.5, see=around.see), x.shape)
        if around.blind is not None:
            y = evenly_where(around.blind, y, reshape(v, x.shape))
        return self.linear(f"{name}.Wo", y)

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        act = self.config.hidden_activation
        inside = inside_mlp(self, [f"{name}.Wi"], x, lambda both: gated_halves(both, act))
        return self.linear(f"{name}.Wo", inside)  # of (batch, tokens, d_ff)


@dataclass(frozen=True)
class Surroundings:
    """What the attention of a layer needs to know beside its input.

    angles : cos and sin by which queries and keys turn
    see : which keys a query sees
    blind : (batch, tokens), True where a query sees none; None if all see some
    """

    angles: tuple[Array, Array]
    see: Visibility
    blind: Array | None


class ModernBertClassifier(EncoderClassifier, ModernBert):
    """ModernBertForSequenceClassification. `head` is that of pre-training, where a file has it."""

    prefix = "model."
    of_pretraining = ("head.",)

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model = config.hidden_size
        return {"head.dense": (d_model, d_model), "classifier": (len(config.labels), d_model)}

    @classmethod
    def norms(cls, config: Any) -> list[str]:
        return [*super().norms(config), "head.norm"]

    @classmethod
    def biased(cls, config: Any) -> list[str]:
        return [*super().biased(config), *(["head.dense"] if config.classifier_bias else []), "classifier"]

    @classmethod
    def fresh_head(cls, config: Any, present: Collection[str], seed: int, deviation: float = 0.02) -> dict[str, Array]:
        shapes, made = cls.tensor_shapes(config), super().fresh_head(config, present, seed, deviation)
        norm = {"head.norm.weight": np.ones(config.hidden_size), "head.norm.bias": np.zeros(config.hidden_size)}
        return {**made, **{name: x for name, x in norm.items() if name in shapes and name not in present}}

    @classmethod
    def head_deviation(cls, config: Any, module: str, deviation: float) -> float:
        """As in transformers, but not cut at two deviations."""
        inside = deviation / math.sqrt(2.0 * config.num_hidden_layers)
        return float(config.hidden_size**-0.5) if module == "classifier" else inside

    def pooled(self, hidden: Tensor, attention_mask: Any) -> Tensor:
        if self.config.classifier_pooling == "cls":
            return super().pooled(hidden, attention_mask)
        every = np.ones(hidden.shape[:2], dtype=bool)
        keep = padding_mask(attention_mask, every)
        keep = every if keep is None else keep
        return weighted_sum(hidden, asarray(keep / keep.sum(axis=1, keepdims=True), hidden.data, hidden.dtype))

    def head(self, first: Tensor) -> Tensor:
        dense = activation(self.linear("head.dense", first), self.config.classifier_activation)
        return self.linear("classifier", self._norm("head.norm", dense))
