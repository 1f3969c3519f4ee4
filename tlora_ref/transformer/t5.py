"""T5 (Raffel et al., arXiv 1910.10683), its version 1.1 and Flan-T5: an encoder and a decoder.

Legend: d_model the width; heads of d_kv channels (heads * d_kv need not be d_model); d_ff the MLP's width.

    encoder: x = shared[ids]
             for each block:  x = x + o( attention( q(n), k(n), v(n), bias ) )               n = rms_norm(x)
                              x = x + wo( relu(wi(n)) )    or  wo( gelu(wi_0(n)) * wi_1(n) )  n = rms_norm(x)
             memory = rms_norm(x)
    decoder: the same with causal attention, and between the two, in each block:
                              x = x + o( attention( q(n), k(memory), v(memory) ) )           n = rms_norm(x)
    logits = rms_norm(x) @ W_out^T, the hidden states times d_model^-0.5 first in version 1.0

Scores are not divided by sqrt(d_kv). Their bias depends on the distance of key and query (section 2.1): each stack has
one table, stored in its first block and used by all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    activation,
    add,
    attention,
    bucket_bias,
    check_activation,
    gated,
    reshape,
    rms_norm,
    scale,
)
from tlora_ref.backend import Array
from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.model import Targets
from tlora_ref.transformer.seq2seq import Seq2SeqLM
from tlora_ref.transformer.settings import Settings, told

#: Where checkpoints store copies of `shared.weight`.
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
#: A table that the first checkpoints store and no model uses.
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
TABLE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


@dataclass(frozen=True)
class T5Config:
    """What defines a T5, under transformers' names."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: str = "relu"
    is_gated_act: bool = False
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 1
    decoder_start_token_id: int | None = None
    model_type: str = "t5"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> T5Config:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({"pad_token_id": 0, "eos_token_id": 1, **values}, "t5")
        settings.expect("is_encoder_decoder", [True], "the encoder alone is another model")
        settings.expect("is_decoder", [False], "encoder and decoder")
        settings.seen.add("bos_token_id")
        settings.expect("tie_encoder_decoder", [False], "each has its own weights")
        settings.seen.update(("n_positions", "classifier_dropout"))  # relative positions have no longest length
        layers = settings.count("num_layers", 6)
        config = cls(
            vocab_size=settings.count("vocab_size", 32128),
            d_model=settings.count("d_model", 512),
            d_kv=settings.count("d_kv", 64),
            d_ff=settings.count("d_ff", 2048),
            num_layers=layers,
            num_decoder_layers=settings.count("num_decoder_layers", layers),
            num_heads=settings.count("num_heads", 8),
            relative_attention_num_buckets=settings.count("relative_attention_num_buckets", 32),
            relative_attention_max_distance=settings.count("relative_attention_max_distance", 128),
            layer_norm_epsilon=settings.take("layer_norm_epsilon", float, 1e-6),
            **_read_mlp(settings),
            **_read_output(settings),
            pad_token_id=settings.token_id("pad_token_id"),
            eos_token_id=settings.token_ids("eos_token_id"),
            decoder_start_token_id=settings.token_id("decoder_start_token_id"),
        )
        settings.finish()
        _check_buckets(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True, **self.__dict__}

    @property
    def mlp_inputs(self) -> tuple[str, ...]:
        """The modules that lead into the MLP."""
        return ("wi_0", "wi_1") if self.is_gated_act else ("wi",)


def _read_mlp(settings: Settings) -> dict[str, Any]:
    """`feed_forward_proj` ("relu", "gated-gelu"), and the two keys that say the same, which win where they are there.

    "gated-gelu" means the tanh approximation, as in transformers.
    """
    named = settings.take("feed_forward_proj", str, "relu")
    parts = named.split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise ConfigError(
            f'config.json: "feed_forward_proj" is {told(named)}, expected "relu", "gated-gelu" or their like'
        )
    act = settings.take("dense_act_fn", str, "gelu_new" if named == "gated-gelu" else parts[-1])
    return {
        "feed_forward_proj": named,
        "dense_act_fn": check_activation(act),
        "is_gated_act": settings.take("is_gated_act", bool, parts[0] == "gated"),
    }


def _read_output(settings: Settings) -> dict[str, Any]:
    """Whether the output matrix is the embedding, and whether hidden states are scaled before it.

    Version 1.0 is tied and scales, 1.1 neither: `tie_word_embeddings` said both. transformers 5 writes it true for
    every T5 and says the other by `scale_decoder_outputs`, so not to scale means an output matrix of its own (which
    `T5.sanitize` copies from the embedding where a file has none).
    """
    scales = settings.take("scale_decoder_outputs", bool, settings.take("tie_word_embeddings", bool, True))
    tied = settings.take("tie_word_embeddings", bool, True)
    return {"tie_word_embeddings": tied and scales, "scale_decoder_outputs": scales}


def _check_buckets(config: T5Config) -> None:
    """There must be a bucket for single distances in each direction, and distances for the others."""
    n_buckets, max_distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    if n_buckets < 4 or max_distance <= n_buckets // 2:
        raise ConfigError(
            f'config.json: "relative_attention_num_buckets" is {n_buckets} and "relative_attention_max_distance" '
            f"{max_distance}: expected at least 4 buckets, and a distance above half their number"
        )


def relative_buckets(distance: Array, *, bidirectional: bool, n_buckets: int, max_distance: int) -> Array:
    """Bucket of every distance (key position - query position): integers 0 to n_buckets - 1, same shape.

    Keys before the query, and after it where `bidirectional`, have their own buckets; half of these hold one distance
    each, the others ranges that grow as its logarithm up to `max_distance`, and the last all beyond (section 2.1).
    The logarithm is float32's, as in transformers, whatever the model's dtype: a boundary could round otherwise.
    """
    bucket = np.zeros(distance.shape, dtype=np.int64)
    if bidirectional:
        n_buckets //= 2
        bucket += (distance > 0) * n_buckets
        apart = np.abs(distance)
    else:
        apart = np.maximum(-distance, 0)
    exact = n_buckets // 2
    ratio = np.maximum(apart, 1).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(n_buckets - exact)
    far = np.minimum(exact + steps.astype(np.int64), n_buckets - 1)
    return bucket + np.where(apart < exact, apart, far)


class T5(Seq2SeqLM):
    """T5ForConditionalGeneration."""

    config: T5Config
    unread = ("shared",)
    default_targets = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")

    # ------------------------------------------------------------------ names and shapes
    @classmethod
    def layer_linears(cls, config: T5Config, decoder: bool) -> dict[str, tuple[int, int]]:
        """The linear modules of a block and their (d_out, d_in)."""
        d_model, d_attention = config.d_model, config.num_heads * config.d_kv
        attentions = ["layer.0.SelfAttention", "layer.1.EncDecAttention"][: 1 + decoder]
        mlp = f"layer.{len(attentions)}.DenseReluDense"
        return {
            **{
                f"{name}.{p}": (d_model, d_attention) if p == "o" else (d_attention, d_model)
                for name in attentions
                for p in "qkvo"
            },
            **{f"{mlp}.{wi}": (config.d_ff, d_model) for wi in config.mlp_inputs},
            f"{mlp}.wo": (d_model, config.d_ff),
        }

    @classmethod
    def _blocks(cls, config: T5Config) -> list[tuple[str, bool]]:
        """(path, whether of the decoder) of every block, in model order."""
        encoder = [(f"encoder.block.{i}", False) for i in range(config.num_layers)]
        return [*encoder, *((f"decoder.block.{i}", True) for i in range(config.num_decoder_layers))]

    @classmethod
    def linear_modules(cls, config: Any) -> list[str]:
        output = [] if config.tie_word_embeddings else ["lm_head"]
        blocks = [f"{block}.{m}" for block, decoder in cls._blocks(config) for m in cls.layer_linears(config, decoder)]
        return [*blocks, *output]

    @classmethod
    def embedding_tables(cls, config: Any) -> list[str]:
        return [name.removesuffix(".weight") for name in EMBEDDING_COPIES]

    @classmethod
    def ties(cls, config: Any) -> dict[str, str]:
        return {**dict.fromkeys(EMBEDDING_COPIES, "shared.weight"), **super().ties(config)}

    @classmethod
    def untied(cls, config: Any, tensors: dict[str, Array], apart: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        """An output matrix of its own comes without the scaling of the hidden states, which goes into it."""
        tables = [name for name in EMBEDDING_COPIES if name in apart]
        if tables:
            raise ConfigError(
                f"the adapter gives {' and '.join(tables)} values of their own, which a t5 checkpoint has no place "
                "for: keep the adapter beside its model"
            )
        W = apart["lm_head.weight"] * config.d_model**-0.5
        return replace(config, tie_word_embeddings=False, scale_decoder_outputs=False), {**tensors, "lm_head.weight": W}

    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model = config.d_model
        shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config.vocab_size, d_model)}
        for block, decoder in cls._blocks(config):
            shapes |= {f"{block}.{m}.weight": shape for m, shape in cls.layer_linears(config, decoder).items()}
            shapes |= {f"{block}.layer.{i}.layer_norm.weight": (d_model,) for i in range(2 + decoder)}
        for stack in ("encoder", "decoder"):
            shapes[f"{stack}.{TABLE}"] = (config.relative_attention_num_buckets, config.num_heads)
            shapes[f"{stack}.final_layer_norm.weight"] = (d_model,)
        return shapes if config.tie_word_embeddings else {**shapes, "lm_head.weight": shapes["shared.weight"]}

    @classmethod
    def target_shapes(cls, config: Any, targets: Targets = None) -> dict[str, tuple[int, int]]:
        """See `Model.target_shapes`; the default leaves out `wi` or `wi_0` and `wi_1`, whichever the MLP lacks."""
        default = ("q", "k", "v", "o", *config.mlp_inputs, "wo")
        return super().target_shapes(config, default if targets is None else targets)

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """One copy of the embedding, by its name; an output matrix where the configuration wants one and only there."""
        kept = {name: x for name, x in tensors.items() if name != UNUSED}
        copies = {name: kept.pop(name) for name in EMBEDDING_COPIES if name in kept}
        if config.tie_word_embeddings and "lm_head.weight" in kept:
            copies["lm_head.weight"] = kept.pop("lm_head.weight")
        if "shared.weight" not in kept and copies:
            kept["shared.weight"] = next(iter(copies.values()))
        for name, copy in copies.items():
            if not np.array_equal(copy, kept["shared.weight"]):
                raise CheckpointError(
                    f"{name} differs from shared.weight, but config.json says that they are one. For an output matrix "
                    'of its own set "tie_word_embeddings" to false; embeddings of their own are not implemented'
                )
        if not config.tie_word_embeddings and "shared.weight" in kept:
            kept.setdefault("lm_head.weight", kept["shared.weight"])
        return kept

    # ------------------------------------------------------------------ forward
    def encode(self, ids: Array, keep: Array | None) -> Tensor:
        see = Visibility(keys=None if keep is None else self.device.put(keep))
        bias = self._bias("encoder", 0, ids.shape[1])
        x = self.embedded("encoder.embed_tokens", ids)
        for i in range(self.config.num_layers):
            block = f"encoder.block.{i}"
            x = self._attended(f"{block}.layer.0", x, see, bias, None)
            x = self._mlp(f"{block}.layer.1", x)
        return self._norm("encoder.final_layer_norm", x)

    def decode(
        self, ids: Array, keep: Array | None, memory: Tensor, memory_keep: Array | None, cache: KeyValueCache | None
    ) -> Tensor:
        put, seen = self.device.put, 0 if cache is None else cache.length
        see = Visibility(causal=True, keys=None if keep is None else put(keep))
        see_memory = Visibility(keys=None if memory_keep is None else put(memory_keep))
        bias = self._bias("decoder", seen, ids.shape[1])
        x = self.embedded("decoder.embed_tokens", ids)
        for i in range(self.config.num_decoder_layers):
            block = f"decoder.block.{i}"
            x = self._attended(f"{block}.layer.0", x, see, bias, cache)
            x = self._attended_memory(f"{block}.layer.1", x, memory, see_memory, cache)
            x = self._mlp(f"{block}.layer.2", x)
        x = self._norm("decoder.final_layer_norm", x)
        return scale(x, self.config.d_model**-0.5) if self.config.scale_decoder_outputs else x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, self.parameter(f"{name}.weight"), self.config.layer_norm_epsilon)

    def _bias(self, stack: str, seen: int, tokens: int) -> Tensor:
        """Bias of the scores (heads, tokens, seen + tokens): the queries are the last `tokens` positions."""
        distance = np.arange(seen + tokens)[None, :] - np.arange(seen, seen + tokens)[:, None]
        buckets = relative_buckets(
            distance,
            bidirectional=stack == "encoder",
            n_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return bucket_bias(self.parameter(f"{stack}.{TABLE}"), self.device.put(buckets))

    def _heads(self, module: str, x: Tensor) -> Tensor:
        """(batch, tokens, d_model) -> (batch, tokens, heads, d_kv)."""
        return reshape(self.linear(module, x), (*x.shape[:2], self.config.num_heads, self.config.d_kv))

    def _attended(self, layer: str, x: Tensor, see: Visibility, bias: Tensor, cache: KeyValueCache | None) -> Tensor:
        """x + self-attention."""
        name, normed = f"{layer}.SelfAttention", self._norm(f"{layer}.layer_norm", x)
        q, k, v = (self._heads(f"{name}.{p}", normed) for p in "qkv")
        if cache is not None:
            k, v = cache.extend(name, k, v)
        y = attention(q, k, v, scale=1.0, see=see, bias=bias)
        return add(x, self.linear(f"{name}.o", reshape(y, (*x.shape[:2], -1))))

    def _attended_memory(
        self, layer: str, x: Tensor, memory: Tensor, see: Visibility, cache: KeyValueCache | None
    ) -> Tensor:
        """x + attention to the encoder's hidden states, without a bias."""
        name = f"{layer}.EncDecAttention"
        q = self._heads(f"{name}.q", self._norm(f"{layer}.layer_norm", x))

        def keys_and_values() -> tuple[Tensor, Tensor]:
            return self._heads(f"{name}.k", memory), self._heads(f"{name}.v", memory)

        k, v = keys_and_values() if cache is None else cache.once(name, keys_and_values)
        y = attention(q, k, v, scale=1.0, see=see)
        return add(x, self.linear(f"{name}.o", reshape(y, (*x.shape[:2], -1))))

    def _mlp(self, layer: str, x: Tensor) -> Tensor:
        """x + MLP."""
        name, normed, act = f"{layer}.DenseReluDense", self._norm(f"{layer}.layer_norm", x), self.config.dense_act_fn
        if self.config.is_gated_act:  # (batch, tokens, d_ff)
            inside = inside_mlp(self, (f"{name}.wi_0", f"{name}.wi_1"), normed, lambda gate, up: gated(gate, up, act))
        else:
            inside = inside_mlp(self, [f"{name}.wi"], normed, lambda up: activation(up, act))
        return add(x, self.linear(f"{name}.wo", inside))
