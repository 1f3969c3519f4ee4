"""OPT (Zhang et al., arXiv 2205.01068), and Galactica (arXiv 2211.09085), which has its layers without biases.

    x = project_in( embed_tokens[ids] ) + embed_positions[positions + 2]
    for each layer:
        x = x + out_proj( attention( q_proj(n), k_proj(n), v_proj(n) ) )     n = self_attn_layer_norm(x)
        x = x + fc2( relu( fc1(n) ) )                                        n = final_layer_norm(x)
    logits = project_out( final_layer_norm(x) ) @ embed_tokens^T

The first two rows of the position table belong to no token. The 350M model alone has narrower embeddings, hence
`project_in` and `project_out`, and its norms stand after the sums, with none in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlora_ref.autograd import (
    Tensor,
    Visibility,
    activation,
    add,
    attention,
    check_activation,
    layer_norm,
    reshape,
)
from tlora_ref.backend import Array, array_module
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.causal import CausalLM, Decoder
from tlora_ref.transformer.classification import DecoderClassifier, head_dict, read_head
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.settings import Settings

#: Rows of the position table before that of the first token.
OFFSET = 2
#: Fixed in transformers' code.
LAYER_NORM_EPS = 1e-5
#: Noise of training alone, and the width of fresh weights.
UNREAD = ("activation_dropout", "layerdrop", "init_std")


@dataclass(frozen=True)
class OPTConfig:
    """What defines an OPT, under transformers' names; `word_embed_proj_dim` is the width of the embeddings."""

    vocab_size: int = 50272
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    ffn_dim: int = 3072
    word_embed_proj_dim: int = 768
    max_position_embeddings: int = 2048
    activation_function: str = "relu"
    do_layer_norm_before: bool = True
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = 1
    architecture: str = "OPTForCausalLM"
    labels: tuple[str, ...] = ()
    model_type: str = "opt"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OPTConfig:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, **values}, "opt")
        settings.expect("is_decoder", [False, True], "a decoder either way")
        settings.expect("_remove_final_layer_norm", [False], "as checkpoints have it since transformers 4.20.1")
        settings.seen.update(UNREAD)
        width = settings.count("hidden_size", 768)
        config = cls(
            vocab_size=settings.count("vocab_size", 50272),
            hidden_size=width,
            num_hidden_layers=settings.count("num_hidden_layers", 12),
            num_attention_heads=settings.count("num_attention_heads", 12),
            ffn_dim=settings.count("ffn_dim", 3072),
            word_embed_proj_dim=settings.count("word_embed_proj_dim", width),
            max_position_embeddings=settings.count("max_position_embeddings", 2048),
            activation_function=check_activation(settings.take("activation_function", str, "relu")),
            do_layer_norm_before=settings.take("do_layer_norm_before", bool, True),
            enable_bias=settings.take("enable_bias", bool, True),
            layer_norm_elementwise_affine=settings.take("layer_norm_elementwise_affine", bool, True),
            tie_word_embeddings=settings.take("tie_word_embeddings", bool, True),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_ids("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, "OPTForCausalLM"),
        )
        settings.finish()
        if width % config.num_attention_heads:
            raise ConfigError(
                f'config.json: "hidden_size" {width} is not a multiple of "num_attention_heads" '
                f"{config.num_attention_heads}"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {**head_dict(self), **{k: v for k, v in self.__dict__.items() if k not in ("architecture", "labels")}}

    @property
    def projects(self) -> bool:
        """Whether embeddings have a width of their own."""
        return self.word_embed_proj_dim != self.hidden_size


class OPTDecoder(Decoder):
    """The layers of OPT."""

    config: OPTConfig
    embedding_name = "model.decoder.embed_tokens.weight"
    default_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    # ------------------------------------------------------------------ names and shapes
    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer and their (d_out, d_in)."""
        d_model, d_ff = config.hidden_size, config.ffn_dim
        attention = {f"self_attn.{name}_proj": (d_model, d_model) for name in ("q", "k", "v", "out")}
        return {**attention, "fc1": (d_ff, d_model), "fc2": (d_model, d_ff)}

    @classmethod
    def layer_paths(cls, config: Any) -> list[str]:
        """Where the layers are."""
        return [f"model.decoder.layers.{i}" for i in range(config.num_hidden_layers)]

    @classmethod
    def projections(cls, config: Any) -> dict[str, tuple[int, int]]:
        """The linear modules between the embeddings and the layers, where there are any."""
        d_model, d_embedding = config.hidden_size, config.word_embed_proj_dim
        shapes = {"project_in": (d_model, d_embedding), "project_out": (d_embedding, d_model)}
        return {f"model.decoder.{name}": shape for name, shape in shapes.items()} if config.projects else {}

    @classmethod
    def decoder_modules(cls, config: Any) -> list[str]:
        layers = [f"{layer}.{module}" for layer in cls.layer_paths(config) for module in cls.layer_linears(config)]
        return [*layers, *cls.projections(config)]

    @classmethod
    def embedding_tables(cls, config: Any) -> list[str]:
        return ["model.decoder.embed_tokens", "model.decoder.embed_positions"]

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model, linears = config.hidden_size, cls.layer_linears(config)
        shapes: dict[str, tuple[int, ...]] = {
            cls.embedding_name: (config.vocab_size, config.word_embed_proj_dim),
            "model.decoder.embed_positions.weight": (config.max_position_embeddings + OFFSET, d_model),
            **{f"{name}.weight": shape for name, shape in cls.projections(config).items()},
        }
        norms = ["model.decoder.final_layer_norm"] if config.do_layer_norm_before else []
        for layer in cls.layer_paths(config):
            shapes |= {f"{layer}.{module}.weight": shape for module, shape in linears.items()}
            if config.enable_bias:
                shapes |= {f"{layer}.{module}.bias": shape[:1] for module, shape in linears.items()}
            norms += [f"{layer}.self_attn_layer_norm", f"{layer}.final_layer_norm"]
        if config.layer_norm_elementwise_affine:
            shapes |= {f"{norm}.{part}": (d_model,) for norm in norms for part in ("weight", "bias")}
        return shapes

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Give every name its `model.`, which files of the bare decoder lack."""
        named = {f"model.{name}" if name.startswith("decoder.") else name: x for name, x in tensors.items()}
        return super().sanitize(named, config)

    # ------------------------------------------------------------------ forward
    def hidden_states(self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None) -> Tensor:
        config, see = self.config, self.causal(keep)
        x = self._embedded(ids, positions)
        for layer in self.layer_paths(config):
            before = config.do_layer_norm_before
            normed = self._norm(f"{layer}.self_attn_layer_norm", x) if before else x
            x = add(x, self._attention(f"{layer}.self_attn", normed, see, cache))
            x = x if before else self._norm(f"{layer}.self_attn_layer_norm", x)
            normed = self._norm(f"{layer}.final_layer_norm", x) if before else x
            x = add(x, self._mlp(layer, normed))
            x = x if before else self._norm(f"{layer}.final_layer_norm", x)
        if config.do_layer_norm_before:
            x = self._norm("model.decoder.final_layer_norm", x)
        return self.linear("model.decoder.project_out", x) if config.projects else x  # (batch, tokens, d_embedding)

    def _embedded(self, ids: Array, positions: Array) -> Tensor:
        longest = self.config.max_position_embeddings
        if positions.max() >= longest:
            raise DataError(
                f"a sequence of {int(positions.max()) + 1} tokens: this opt model has {longest} learned positions "
                f"(max_position_embeddings), and none beyond. Shorten the text; rows of a file are cut by "
                f"--max-length {longest}"
            )
        words = self.embedded("model.decoder.embed_tokens", ids)  # (batch, tokens, d_embedding)
        if self.config.projects:
            words = self.linear("model.decoder.project_in", words)
        return add(
            words, self.embedded("model.decoder.embed_positions", positions + OFFSET)
        )  # (batch, tokens, d_model)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        if not self.config.layer_norm_elementwise_affine:
            return layer_norm(x, Tensor(array_module(x.data).ones(x.shape[-1:], dtype=x.dtype)), None, LAYER_NORM_EPS)
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return layer_norm(x, weight, bias, LAYER_NORM_EPS)

    def _attention(self, name: str, x: Tensor, see: Visibility, cache: KeyValueCache | None) -> Tensor:
        (batch, tokens, d_model), n_heads = x.shape, self.config.num_attention_heads
        d_head = d_model // n_heads
        q, k, v = (
            reshape(self.linear(f"{name}.{projection}_proj", x), (batch, tokens, n_heads, d_head))
            for projection in "qkv"
        )
        if cache is not None:
            k, v = cache.extend(name, k, v)
        y = attention(q, k, v, scale=d_head**-0.5, see=see)  # (batch, tokens, heads, d_head)
        return self.linear(f"{name}.out_proj", reshape(y, (batch, tokens, d_model)))

    def _mlp(self, layer: str, x: Tensor) -> Tensor:
        inside = inside_mlp(self, [f"{layer}.fc1"], x, lambda up: activation(up, self.config.activation_function))
        return self.linear(f"{layer}.fc2", inside)


class OPT(OPTDecoder, CausalLM):
    """OPTForCausalLM."""


class OPTClassifier(OPTDecoder, DecoderClassifier):
    """OPTForSequenceClassification."""
