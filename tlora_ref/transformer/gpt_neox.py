"""GPT-NeoX (Black et al., arXiv 2204.06745) and Pythia.

    x = embed_in(ids)
    for each layer, with parallel residual (the rule):
        x = x + dense( attention(...) of norm_1(x) ) + mlp( norm_2(x) )
    without:
        x = x + dense( attention(...) of norm_1(x) );    x = x + mlp( norm_2(x) )
    logits = layer_norm(x) @ lm_head^T

`query_key_value` makes, head by head, that head's q, k and v; of each head's channels only the first `rotary_pct` turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    rotary,
    split,
)
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.causal import CausalLM, Decoder
from tlora_ref.transformer.classification import DecoderClassifier, head_dict, read_head
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.rope import Rope, read_partial_rope, rotary_tables
from tlora_ref.transformer.settings import Settings

#: What older checkpoints store among the weights: causal masks and rotary frequencies.
STORED_OUTPUT = "embed_out.weight"
BUFFERS = (".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq")


@dataclass(frozen=True)
class GPTNeoXConfig:
    """What defines a GPT-NeoX, under transformers' names; `d_rotary` channels of each head turn."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    d_rotary: int
    rope: Rope = field(default_factory=Rope)
    rotary_pct: float = 0.25
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2
    pad_token_id: int | None = None
    architecture: str = "GPTNeoXForCausalLM"
    labels: tuple[str, ...] = ()
    model_type: str = "gpt_neox"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTNeoXConfig:
        """From the contents of a config.json; ConfigError for a key that is missing, wrong or unknown."""
        settings = Settings({"bos_token_id": 0, "eos_token_id": 2, **values}, "gpt_neox")
        settings.expect("is_decoder", [False, True], "a decoder either way")
        hidden, heads = settings.count("hidden_size"), settings.count("num_attention_heads")
        if hidden % heads:
            raise ConfigError(f'config.json: "hidden_size" {hidden} is not a multiple of the {heads} attention heads')
        config = cls(
            vocab_size=settings.count("vocab_size"),
            hidden_size=hidden,
            intermediate_size=settings.count("intermediate_size"),
            num_hidden_layers=settings.count("num_hidden_layers"),
            num_attention_heads=heads,
            **_rotary_fields(settings, hidden // heads),
            hidden_act=check_activation(settings.take("hidden_act", str, "gelu")),
            max_position_embeddings=settings.count("max_position_embeddings", 2048),
            layer_norm_eps=settings.take("layer_norm_eps", float, 1e-5),
            use_parallel_residual=settings.take("use_parallel_residual", bool, True),
            attention_bias=settings.take("attention_bias", bool, True),
            tie_word_embeddings=settings.take("tie_word_embeddings", bool, False),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_ids("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, "GPTNeoXForCausalLM"),
        )
        settings.finish()
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        apart = ("rope", "d_rotary", "architecture", "labels")
        rope = self.rope.to_dict()
        return {
            **head_dict(self),
            **{k: v for k, v in self.__dict__.items() if k not in apart},
            "rotary_emb_base": rope["rope_theta"],
            "rope_scaling": rope["rope_scaling"],
        }


def _rotary_fields(settings: Settings, d_head: int) -> dict[str, Any]:
    rope, d_rotary, part = read_partial_rope(settings, d_head, "rotary_pct", "rotary_emb_base", 0.25)
    return {"d_rotary": d_rotary, "rope": rope, "rotary_pct": part}


class GPTNeoXDecoder(Decoder):
    """The layers of GPT-NeoX."""

    config: GPTNeoXConfig
    embedding_name = "gpt_neox.embed_in.weight"
    default_targets = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer and their (d_out, d_in)."""
        d_model, d_ff = config.hidden_size, config.intermediate_size
        return {
            "attention.query_key_value": (3 * d_model, d_model),
            "attention.dense": (d_model, d_model),
            "mlp.dense_h_to_4h": (d_ff, d_model),
            "mlp.dense_4h_to_h": (d_model, d_ff),
        }

    @classmethod
    def decoder_modules(cls, config: Any) -> list[str]:
        return [f"gpt_neox.layers.{i}.{m}" for i in range(config.num_hidden_layers) for m in cls.layer_linears(config)]

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model = config.hidden_size
        layer: dict[str, tuple[int, ...]] = {}
        for module, shape in cls.layer_linears(config).items():
            layer[f"{module}.weight"] = shape
            if config.attention_bias or module.startswith("mlp."):
                layer[f"{module}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            layer |= {f"{norm}.weight": (d_model,), f"{norm}.bias": (d_model,)}
        return {
            "gpt_neox.embed_in.weight": (config.vocab_size, d_model),
            **{f"gpt_neox.layers.{i}.{name}": layer[name] for i in range(config.num_hidden_layers) for name in layer},
            "gpt_neox.final_layer_norm.weight": (d_model,),
            "gpt_neox.final_layer_norm.bias": (d_model,),
        }

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Drop stored buffers; checkpoints call `embed_out` what is `lm_head` since transformers 5, and in adapters."""
        named = {
            "lm_head.weight" if name == STORED_OUTPUT else name: x
            for name, x in tensors.items()
            if not name.endswith(BUFFERS)
        }
        return super().sanitize(named, config)

    @classmethod
    def unsanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        return {STORED_OUTPUT if name == "lm_head.weight" else name: x for name, x in tensors.items()}

    # ------------------------------------------------------------------ forward
    def hidden_states(self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None) -> Tensor:
        x = self.embedded(self.embedding_name.removesuffix(".weight"), ids)  # (batch, tokens, d_model)
        angles = rotary_tables(self.config.rope, self.config.d_rotary, positions, like=x.data)
        see = self.causal(keep)
        for i in range(self.config.num_hidden_layers):
            layer = f"gpt_neox.layers.{i}"
            normed = self._norm(f"{layer}.input_layernorm", x)
            attended = add(x, self._attention(f"{layer}.attention", normed, angles, see, cache))
            seen = x if self.config.use_parallel_residual else attended
            x = add(attended, self._mlp(f"{layer}.mlp", self._norm(f"{layer}.post_attention_layernorm", seen)))
        return self._norm("gpt_neox.final_layer_norm", x)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return layer_norm(
            x, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias"), self.config.layer_norm_eps
        )

    def _attention(
        self, name: str, x: Tensor, angles: tuple[Array, Array], see: Visibility, cache: KeyValueCache | None
    ) -> Tensor:
        (batch, tokens, d_model), n_heads = x.shape, self.config.num_attention_heads
        d_head = d_model // n_heads
        qkv = reshape(self.linear(f"{name}.query_key_value", x), (batch, tokens, n_heads, 3 * d_head))
        q, k, v = split(qkv, [d_head] * 3)  # each (batch, tokens, heads, d_head)
        q, k = rotary(q, *angles), rotary(k, *angles)
        if cache is not None:
            k, v = cache.extend(name, k, v)
        y = attention(q, k, v, scale=d_head**-0.5, see=see)  # (batch, tokens, heads, d_head)
        return self.linear(f"{name}.dense", reshape(y, (batch, tokens, d_model)))

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        inside = inside_mlp(self, [f"{name}.dense_h_to_4h"], x, lambda up: activation(up, self.config.hidden_act))
        return self.linear(f"{name}.dense_4h_to_h", inside)


class GPTNeoX(GPTNeoXDecoder, CausalLM):
    """GPTNeoXForCausalLM."""


class GPTNeoXClassifier(GPTNeoXDecoder, DecoderClassifier):
    """GPTNeoXForSequenceClassification."""
