"""LFM2 (Liquid AI, arXiv 2511.23404): Llama in which most layers have a short gated convolution in place of attention,
and the others normalise queries and keys head by head.

    for each layer:
        x = x + attention( n )  or  x + out( C * conv(B * v) )     B, C, v = in(n), n = rms_norm(x)
        x = x + w2( silu(w1(n)) * w3(n) )                          n = rms_norm(x)
    logits = rms_norm(x) @ embed^T

`conv` sees a token and the conv_L_cache - 1 before it, channel by channel; of padding it sees zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, add, causal_convolution, gated, multiply, reshape, split
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.layer_types import FULL
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig, Surroundings
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.model import Targets
from tlora_ref.transformer.rope import Rope
from tlora_ref.transformer.settings import Settings, told

CONV = "conv"


@dataclass(frozen=True)
class Lfm2Config(LlamaLikeConfig):
    """What defines an LFM2. `intermediate_size` is what its files say, `d_ff` what is made of it."""

    conv_bias: bool = False
    conv_L_cache: int = 3
    block_multiple_of: int = 256
    block_ffn_dim_multiplier: float = 1.0
    block_auto_adjust_ff_dim: bool = True
    layer_types: tuple[str, ...] = ()
    model_type: str = "lfm2"

    prefix = "Lfm2"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"num_key_value_heads": 8, "max_position_embeddings": 128000, "norm_eps": 1e-5, "tie_word_embeddings": True},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }

    @classmethod
    def respelled(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = {
            "norm_eps": "rms_norm_eps",
            "block_ff_dim": "intermediate_size",
            "tie_embedding": "tie_word_embeddings",
        }
        given = {ours: values.pop(theirs, None) for theirs, ours in names.items()}
        return {**values, **{key: value for key, value in given.items() if value is not None}}

    @classmethod
    def read_rope(cls, settings: Settings, head_dim: int) -> dict[str, Any]:
        return {"rope": Rope.read(settings, head_dim, theta=1e6)}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        for key in ("block_dim", "conv_dim", "conv_dim_out"):
            settings.expect(key, [settings.count("hidden_size")], "the model's width")
        settings.expect("num_heads", [settings.count("num_attention_heads")], "another name of num_attention_heads")
        settings.expect("block_norm_eps", [settings.take("rms_norm_eps", float)], "another name of norm_eps")
        for key in ("block_use_swiglu", "use_pos_enc"):
            settings.expect(key, [True], "as every checkpoint has it")
        initial = ("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init")
        settings.seen.update(initial)  # before training
        return {
            "conv_bias": settings.take("conv_bias", bool, False),
            "conv_L_cache": settings.count("conv_L_cache", 3),
            "block_multiple_of": settings.count("block_multiple_of", 256),
            "block_ffn_dim_multiplier": settings.number_or_none("block_ffn_dim_multiplier") or 1.0,
            "block_auto_adjust_ff_dim": settings.take("block_auto_adjust_ff_dim", bool, True),
            "layer_types": _read_kinds(settings, settings.count("num_hidden_layers")),
        }

    @property
    def d_ff(self) -> int:
        """Width of the MLP: two thirds of `intermediate_size`, rounded up to whole blocks, where that is adjusted."""
        if not self.block_auto_adjust_ff_dim:
            return self.intermediate_size
        width, block = int(self.block_ffn_dim_multiplier * int(2 * self.intermediate_size / 3)), self.block_multiple_of
        return block * ((width + block - 1) // block)

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        values = super().to_dict()
        return {**values, "norm_eps": values.pop("rms_norm_eps")}


def _read_kinds(settings: Settings, layers: int) -> tuple[str, ...]:
    """`layer_types`, or from `full_attn_idxs`, the numbers of the layers with attention (all if neither is given)."""
    attending = settings.take("full_attn_idxs", list, list(range(layers)))
    kinds = settings.take("layer_types", list, [FULL if i in attending else CONV for i in range(layers)])
    if len(kinds) != layers or not all(kind in (FULL, CONV) for kind in kinds):
        raise ConfigError(f'config.json: "layer_types" is {told(kinds)}: expected {layers} times "{FULL}" or "{CONV}"')
    return tuple(kinds)


class Lfm2Decoder(LlamaDecoder):
    """The layers of LFM2."""

    default_targets = ("q_proj", "k_proj", "v_proj", "in_proj", "out_proj", "w1", "w2", "w3")
    last_norm = "model.embedding_norm"
    out_projection = "out_proj"

    @classmethod
    def linears_of(cls, config: Any, kind: str) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer of this kind and their (d_out, d_in)."""
        d_model, d_ff = config.hidden_size, config.d_ff
        d_q, d_kv = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        if kind == CONV:
            operator = {"conv.in_proj": (3 * d_model, d_model), "conv.out_proj": (d_model, d_model)}
        else:
            heads = {"q_proj": (d_q, d_model), "k_proj": (d_kv, d_model), "v_proj": (d_kv, d_model)}
            operator = {f"self_attn.{m}": shape for m, shape in {**heads, "out_proj": (d_model, d_q)}.items()}
        mlp = {"w1": (d_ff, d_model), "w3": (d_ff, d_model), "w2": (d_model, d_ff)}
        return {**operator, **{f"feed_forward.{m}": shape for m, shape in mlp.items()}}

    @classmethod
    def decoder_modules(cls, config: Any) -> list[str]:
        kinds = enumerate(config.layer_types)
        return [f"model.layers.{i}.{module}" for i, kind in kinds for module in cls.linears_of(config, kind)]

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        d_model = config.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, d_model)}
        for i, kind in enumerate(config.layer_types):
            layer: dict[str, tuple[int, ...]] = {}
            for module, shape in cls.linears_of(config, kind).items():
                layer[f"{module}.weight"] = shape
                if config.conv_bias and module.startswith("conv."):
                    layer[f"{module}.bias"] = shape[:1]
            if kind == CONV:
                layer["conv.conv.weight"] = (d_model, 1, config.conv_L_cache)
                layer |= {"conv.conv.bias": (d_model,)} if config.conv_bias else {}
            else:
                layer |= {f"self_attn.{norm}_layernorm.weight": (config.head_dim,) for norm in "qk"}
            layer |= {"operator_norm.weight": (d_model,), "ffn_norm.weight": (d_model,)}
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        return {**shapes, f"{cls.last_norm}.weight": (d_model,)}

    @classmethod
    def target_shapes(cls, config: Any, targets: Targets = None) -> dict[str, tuple[int, int]]:
        """See `Model.target_shapes`; the default leaves out what layers of one kind alone would have."""
        ends = {module.rpartition(".")[2] for module in cls.linear_modules(config)}
        default = [target for target in cls.default_targets if target in ends]
        return super().target_shapes(config, default if targets is None else targets)

    # ------------------------------------------------------------------ forward
    def layer(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        normed = self.norm(f"{name}.operator_norm", x)
        if f"{name}.conv.conv.weight" in self.tensors:
            x = add(x, self.convolution(f"{name}.conv", normed, around))
        else:
            x = add(x, self.attention(f"{name}.self_attn", normed, around))
        return add(x, self.mlp(f"{name}.feed_forward", self.norm(f"{name}.ffn_norm", x)))

    def convolution(self, name: str, x: Tensor, around: Surroundings) -> Tensor:
        """out( C * conv(B * v) ): (batch, tokens, d_model), the same again."""
        d_model, taps = self.config.hidden_size, self.config.conv_L_cache
        B, C, v = split(self.linear(f"{name}.in_proj", x), [d_model] * 3)
        gated_in = multiply(B, v)
        if around.see.keys is not None:  # (batch, keys): the latest are x's own
            gated_in = multiply(gated_in, Tensor(around.see.keys[:, -x.shape[1] :, None].astype(x.dtype)))
        before = None if around.cache is None else around.cache.latest(name, gated_in, taps - 1)
        y = causal_convolution(gated_in, reshape(self.parameter(f"{name}.conv.weight"), (d_model, taps)), before)
        if self.config.conv_bias:
            y = add(y, self.parameter(f"{name}.conv.bias"))
        return self.linear(f"{name}.out_proj", multiply(C, y))

    def queries_keys_values(self, name: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().queries_keys_values(name, x)
        return self.norm(f"{name}.q_layernorm", q), self.norm(f"{name}.k_layernorm", k), v

    def mlp(self, name: str, x: Tensor) -> Tensor:
        modules = (f"{name}.w1", f"{name}.w3")
        inside = inside_mlp(self, modules, x, lambda gate, up: gated(gate, up, "silu"))  # (batch, tokens, d_ff)
        return self.linear(f"{name}.w2", inside)


class Lfm2(Lfm2Decoder, CausalLM):
    """Lfm2ForCausalLM. transformers has no classifier of this family."""

    def not_packed(self, longest: int) -> str | None:
        if CONV in self.config.layer_types:
            return "its convolutions run along the row, from the end of one sample into the next"
        return super().not_packed(longest)
