"""Encoders in the manner of BERT (Devlin et al., arXiv 1810.04805): every token sees every other.

Legend: batch, tokens; d_model the width; heads of d_model / heads channels; d_ff the MLP's width.

    x = layer_norm( words[ids] + positions[0, 1, ...] + types[token types] )
    for each layer:
        x = layer_norm( x + o( attention( q(x), k(x), v(x) ) ) )
        x = layer_norm( x + down( gelu( up(x) ) ) )

The norms come after the sums, and all linear modules have a bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    activation,
    add,
    attention,
    layer_norm,
    multiply,
    reshape,
    weighted_sum,
)
from tlora_ref.backend import Array, array_module
from tlora_ref.errors import DataError
from tlora_ref.transformer.inputs import padding_mask, token_ids
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.model import Model
from tlora_ref.transformer.output import Output


@dataclass(frozen=True)
class Names:
    """What a family calls the parts of its layers; `layers` is where these are."""

    layers: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    up: str
    down: str
    norm: str

    @property
    def linears(self) -> tuple[str, ...]:
        """The linear modules of a layer, in model order."""
        return (self.query, self.key, self.value, self.out, self.up, self.down)


#: Old names of a norm's parts, from TensorFlow.
OLD_PARTS = {".gamma": ".weight", ".beta": ".bias"}


def evenly_where(blind: Array, y: Tensor, v: Tensor) -> Tensor:
    """y (batch, tokens, d_model), but the mean of all v where a query sees no key: a softmax of equal scores is even.

    blind : (batch, tokens), True there. Such queries are padding; it matters where a classifier reads padding, in a
        row padded on the left
    """
    even = array_module(y.data).full(blind.shape, 1.0 / blind.shape[1], dtype=y.dtype)
    share = blind[..., None].astype(y.dtype)  # (batch, tokens, 1)
    mean = reshape(weighted_sum(v, even), (len(blind), 1, v.shape[-1]))
    return add(multiply(y, Tensor(1.0 - share)), multiply(mean, Tensor(share)))


class Encoder(Model):
    """A bare encoder: its output is the last hidden states. A task class adds a head and the family's `base` name."""

    #: What transformers calls the encoder inside a model with a head ("bert"); a bare one has no such prefix.
    base: ClassVar[str]
    prefix: ClassVar[str] = ""
    names: ClassVar[Names]
    #: How the names of what is inside the encoder begin; a head's names begin otherwise.
    inside: ClassVar[tuple[str, ...]] = ("embeddings", "encoder.", "pooler.")
    #: How the names of what a classifier takes over from the head of pre-training begin.
    of_pretraining: ClassVar[tuple[str, ...]] = ()

    # ------------------------------------------------------------------ names and shapes
    @classmethod
    def tables(cls, config: Any) -> dict[str, int]:
        """The embedding tables, and how many rows each has."""
        return {"word_embeddings": config.vocab_size, "position_embeddings": config.max_position_embeddings}

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        """The linear modules beside the layers, and their (d_out, d_in)."""
        return {}

    @classmethod
    def embedding_width(cls, config: Any) -> int:
        """Channels of the embedding tables and of the norm after them."""
        return int(config.hidden_size)

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer, and their (d_out, d_in)."""
        d_model, d_ff = config.hidden_size, config.intermediate_size
        shapes = dict.fromkeys(cls.names.linears, (d_model, d_model))
        return {**shapes, cls.names.up: (d_ff, d_model), cls.names.down: (d_model, d_ff)}

    @classmethod
    def layer_paths(cls, config: Any) -> list[str]:
        """Where the layers are."""
        return [f"{cls.prefix}{cls.names.layers}.{i}" for i in range(config.num_hidden_layers)]

    @classmethod
    def linear_modules(cls, config: Any) -> list[str]:
        layers = [f"{layer}.{m}" for layer in cls.layer_paths(config) for m in cls.layer_linears(config)]
        return [*layers, *cls.head_linears(config)]

    @classmethod
    def embedding_tables(cls, config: Any) -> list[str]:
        return [f"{cls.prefix}embeddings.{table}" for table in cls.tables(config)]

    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model, d_embedding = config.hidden_size, cls.embedding_width(config)
        embeddings = f"{cls.prefix}embeddings"
        shapes: dict[str, tuple[int, ...]] = {
            f"{embeddings}.{table}.weight": (rows, d_embedding) for table, rows in cls.tables(config).items()
        }
        linears, norms = dict(cls.head_linears(config)), {f"{embeddings}.LayerNorm": d_embedding}
        for layer in cls.layer_paths(config):
            linears |= {f"{layer}.{module}": shape for module, shape in cls.layer_linears(config).items()}
            norms |= {f"{layer}.{norm}": d_model for norm in (cls.names.attention_norm, cls.names.norm)}
        for module, shape in linears.items():
            shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
        return shapes | {f"{norm}.{part}": (width,) for norm, width in norms.items() for part in ("weight", "bias")}

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """The prefix that this architecture has, whichever the file has; today's names; no stored positions."""
        renamed: dict[str, Array] = {}
        for name, x in tensors.items():
            bare = name.removeprefix(f"{cls.base}.")
            if bare == "embeddings.position_ids":  # 0, 1, ... again
                continue
            for old, new in OLD_PARTS.items():
                bare = bare.removesuffix(old) + new if bare.endswith(f"LayerNorm{old}") else bare
            renamed[f"{cls.prefix}{bare}" if bare.startswith(cls.inside) else bare] = x
        return renamed

    @classmethod
    def without_head(cls, tensors: dict[str, Array]) -> tuple[dict[str, Array], list[str]]:
        """Those of a checkpoint's tensors that are the encoder's, and the modules of the head that is left out."""
        own = (*cls.inside, *cls.of_pretraining)
        kept = {n: x for n, x in tensors.items() if n.removeprefix(f"{cls.base}.").startswith(own)}
        return kept, sorted({name.partition(".")[0] for name in tensors.keys() - kept.keys()})

    # ------------------------------------------------------------------ forward
    def positions(self, ids: Array) -> Array:
        """Rows of the position table, one a token: (1 or batch, tokens)."""
        return np.arange(ids.shape[1])[None]

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        *,
        token_type_ids: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        loss_divisor: float | None = None,
    ) -> Output:
        """The last hidden states, `out.hidden`, of one sample (tokens,) or a padded batch (batch, tokens).

        Parameters
        ----------
        input_ids : integer token ids
        attention_mask : 1 at tokens, 0 at padding
        token_type_ids : 0 for a first text, 1 for a second, where the family has them; 0 by default

        Raises
        ------
        ConfigError
            for labels: without a head there is no loss.
        DataError, ShapeError
            for ids outside the vocabulary, too long a sequence, or shapes that disagree.
        """
        self.refuse(
            labels=labels,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            loss_divisor=loss_divisor,
        )
        hidden = self.encode(input_ids, attention_mask, token_type_ids)
        return Output(None, None, 0, squeeze=np.ndim(input_ids) == 1, hidden=hidden)

    def encode(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Tensor:
        """The last hidden states (batch, tokens, d_model), from what a caller passed."""
        ids = token_ids(input_ids, self.config.vocab_size)
        keep = padding_mask(attention_mask, ids)
        see = Visibility(keys=None if keep is None else self.device.put(keep))
        x = self._embedded(ids, token_type_ids)
        for layer in self.layer_paths(self.config):
            x = self._norm(f"{layer}.{self.names.attention_norm}", add(x, self._attention(layer, x, see)))
            x = self._norm(f"{layer}.{self.names.norm}", add(x, self._mlp(layer, x)))
        return x

    def _embedded(self, ids: Array, token_type_ids: Any) -> Tensor:
        rows, tables = {"word_embeddings": ids}, self.tables(self.config)
        if "position_embeddings" in tables:
            rows["position_embeddings"] = self._checked_positions(ids)
        if "token_type_embeddings" in tables:
            rows["token_type_embeddings"] = self._token_types(ids, token_type_ids)
        else:
            self.refuse(token_type_ids=token_type_ids)
        path = f"{self.prefix}embeddings"
        words, *others = (self.embedded(f"{path}.{table}", which) for table, which in rows.items())
        for other in others:
            words = add(words, other)
        return self._norm(f"{path}.LayerNorm", words)

    def _checked_positions(self, ids: Array) -> Array:
        """Rows of the position table, all of which are there."""
        positions, longest = self.positions(ids), self.config.max_position_embeddings
        if positions.max() >= longest:
            raise DataError(
                f"a sequence of {ids.shape[1]} tokens needs position {int(positions.max())}: this "
                f"{self.config.model_type} model has {longest} learned positions (max_position_embeddings), 0 to "
                f"{longest - 1}. Shorten the text; rows of a file are cut by --max-length "
                f"{ids.shape[1] - (int(positions.max()) + 1 - longest)}"
            )
        return positions

    def _token_types(self, ids: Array, given: Any) -> Array:
        """Rows of the token type table: the batch's, or one 0 for all."""
        if given is None:
            return np.zeros((1, 1), dtype=np.int64)
        types = token_ids(given, self.config.type_vocab_size, "token_type_ids")
        if types.shape != ids.shape:
            raise DataError(f"token_type_ids has shape {types.shape}, the token ids {ids.shape}: they must agree")
        return types

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return layer_norm(x, weight, bias, self.config.layer_norm_eps)

    def _attention(self, layer: str, x: Tensor, see: Visibility) -> Tensor:
        (batch, tokens, d_model), heads = x.shape, self.config.num_attention_heads
        d_head = d_model // heads
        q, k, v = (
            reshape(self.linear(f"{layer}.{module}", x), (batch, tokens, heads, d_head))
            for module in (self.names.query, self.names.key, self.names.value)
        )
        y = attention(q, k, v, scale=d_head**-0.5, see=see)  # (batch, tokens, heads, d_head)
        return self.linear(f"{layer}.{self.names.out}", reshape(y, (batch, tokens, d_model)))

    def _mlp(self, layer: str, x: Tensor) -> Tensor:
        inside = inside_mlp(self, [f"{layer}.{self.names.up}"], x, lambda up: activation(up, self.config.hidden_act))
        return self.linear(f"{layer}.{self.names.down}", inside)
