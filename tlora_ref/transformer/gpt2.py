"""GPT-2 (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners").

    x = wte[ids] + wpe[positions]
    for each layer:
        x = x + c_proj( attention( c_attn(n) cut into q, k, v ) )      n = layer_norm(x)
        x = x + c_proj( gelu( c_fc(n) ) )                              n = layer_norm(x)
    logits = layer_norm(x) @ wte^T

Checkpoints store the weights of its linear modules ("Conv1D") as (d_in, d_out); in memory they are (d_out, d_in) like
all others. `c_attn` makes q, k and v at once and is one module.
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
    split,
)
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.causal import CausalLM, Decoder
from tlora_ref.transformer.classification import DecoderClassifier, head_dict, read_head
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.settings import Settings

#: Modules of a layer whose weights checkpoints store as (d_in, d_out).
CONV1D = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
#: Causal masks that old checkpoints store among the weights.
MASKS = (".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True)
class GPT2Config:
    """What defines a GPT-2, under transformers' names."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None
    architecture: str = "GPT2LMHeadModel"
    labels: tuple[str, ...] = ()
    model_type: str = "gpt2"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPT2Config:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({"bos_token_id": 50256, "eos_token_id": 50256, **values}, "gpt2")
        settings.expect("scale_attn_weights", [True], "scores are divided by the square root of a head's channels")
        settings.expect("scale_attn_by_inverse_layer_idx", [False], "all layers scale their scores alike")
        settings.expect("reorder_and_upcast_attn", [False], "one precision throughout")
        settings.expect("is_decoder", [False, True], "a decoder either way")
        settings.expect("add_cross_attention", [False], "decoder only")
        settings.take("n_ctx", int, None)  # an old name of n_positions that transformers does not read
        config = cls(
            vocab_size=settings.count("vocab_size", 50257),
            n_positions=settings.count("n_positions", 1024),
            n_embd=settings.count("n_embd", 768),
            n_layer=settings.count("n_layer", 12),
            n_head=settings.count("n_head", 12),
            n_inner=settings.count_or_none("n_inner"),
            activation_function=check_activation(settings.take("activation_function", str, "gelu_new")),
            layer_norm_epsilon=settings.take("layer_norm_epsilon", float, 1e-5),
            tie_word_embeddings=settings.take("tie_word_embeddings", bool, True),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_ids("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, "GPT2LMHeadModel"),
        )
        settings.finish()
        if config.n_embd % config.n_head:
            raise ConfigError(f'config.json: "n_embd" {config.n_embd} is not a multiple of "n_head" {config.n_head}')
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {**head_dict(self), **{k: v for k, v in self.__dict__.items() if k not in ("architecture", "labels")}}


class GPT2Decoder(Decoder):
    """The layers of GPT-2."""

    config: GPT2Config
    embedding_name = "transformer.wte.weight"
    default_targets = ("c_attn", "c_proj", "c_fc")

    @classmethod
    def decoder_modules(cls, config: Any) -> list[str]:
        return [f"transformer.h.{i}.{module}" for i in range(config.n_layer) for module in CONV1D]

    @classmethod
    def embedding_tables(cls, config: Any) -> list[str]:
        return ["transformer.wte", "transformer.wpe"]

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model, d_ff = config.n_embd, config.n_inner or 4 * config.n_embd
        linears = dict(
            zip(CONV1D, [(3 * d_model, d_model), (d_model, d_model), (d_ff, d_model), (d_model, d_ff)], strict=True)
        )
        shapes: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (config.vocab_size, d_model),
            "transformer.wpe.weight": (config.n_positions, d_model),
        }
        for i in range(config.n_layer):
            for module, shape in linears.items():
                shapes[f"transformer.h.{i}.{module}.weight"] = shape
                shapes[f"transformer.h.{i}.{module}.bias"] = shape[:1]
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"transformer.h.{i}.{norm}.{part}": (d_model,) for part in ("weight", "bias")}
        return {**shapes, "transformer.ln_f.weight": (d_model,), "transformer.ln_f.bias": (d_model,)}

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Give every name its `transformer.` (older checkpoints lack it), turn Conv1D weights, drop stored masks."""
        named = {
            name if name.startswith(("transformer.", "lm_head.", "score.")) else f"transformer.{name}": x
            for name, x in tensors.items()
            if not name.endswith(MASKS)
        }
        return super().sanitize(_turned(named), config)

    @classmethod
    def unsanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        return _turned(tensors)

    # ------------------------------------------------------------------ forward
    @property
    def context(self) -> int:
        return int(self.config.n_positions)

    def hidden_states(self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None) -> Tensor:
        if positions.max() >= self.config.n_positions:
            raise DataError(
                f"a sequence of {int(positions.max()) + 1} tokens: this gpt2 model has n_positions "
                f"{self.config.n_positions} learned positions, and none beyond. Shorten the text; rows of a file are "
                f"cut by --max-length {self.config.n_positions}"
            )
        x = add(  # (batch, tokens, d_model)
            self.embedded("transformer.wte", ids),
            self.embedded("transformer.wpe", positions),
        )
        see = self.causal(keep)
        for i in range(self.config.n_layer):
            layer = f"transformer.h.{i}"
            x = add(x, self._attention(f"{layer}.attn", self._norm(f"{layer}.ln_1", x), see, cache))
            x = add(x, self._mlp(f"{layer}.mlp", self._norm(f"{layer}.ln_2", x)))
        return self._norm("transformer.ln_f", x)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return layer_norm(x, weight, bias, self.config.layer_norm_epsilon)

    def _attention(self, name: str, x: Tensor, see: Visibility, cache: KeyValueCache | None) -> Tensor:
        (batch, tokens, d_model), n_heads = x.shape, self.config.n_head
        d_head = d_model // n_heads
        q, k, v = (
            reshape(part, (batch, tokens, n_heads, d_head))
            for part in split(self.linear(f"{name}.c_attn", x), [d_model] * 3)
        )
        if cache is not None:
            k, v = cache.extend(name, k, v)
        y = attention(q, k, v, scale=d_head**-0.5, see=see)  # (batch, tokens, heads, d_head)
        return self.linear(f"{name}.c_proj", reshape(y, (batch, tokens, d_model)))

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        inside = inside_mlp(self, [f"{name}.c_fc"], x, lambda up: activation(up, self.config.activation_function))
        return self.linear(f"{name}.c_proj", inside)


def _turned(tensors: dict[str, Array]) -> dict[str, Array]:
    """Conv1D weights transposed, from either layout to the other."""
    ends = tuple(f"{module}.weight" for module in CONV1D)
    return {name: x.T if name.endswith(ends) and x.ndim == 2 else x for name, x in tensors.items()}


class GPT2(GPT2Decoder, CausalLM):
    """GPT2LMHeadModel."""


class GPT2Classifier(GPT2Decoder, DecoderClassifier):
    """GPT2ForSequenceClassification."""
