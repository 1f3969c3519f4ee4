"""StarCoder2 (Lozhkov et al., arXiv 2402.19173): Llama's layers with layer norms, biases, a plain MLP and a window.

for each layer:
    x = x + o( attention( rope(q(n)), rope(k(n)), v(n) ) )     n = layer_norm(x), each token sees a window
    x = x + c_proj( gelu(c_fc(n)) )                            n = layer_norm(x)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, activation, layer_norm
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import LlamaDecoder, LlamaLikeConfig
from tlora_ref.transformer.mlp import inside_mlp
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class Starcoder2Config(LlamaLikeConfig):
    """What defines a StarCoder2. `sliding_window` None: no window."""

    hidden_act: str = "gelu_pytorch_tanh"
    norm_epsilon: float = 1e-5
    use_bias: bool = True
    sliding_window: int | None = None
    tie_word_embeddings: bool = True
    model_type: str = "starcoder2"

    prefix = "Starcoder2"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30},
        **{"num_attention_heads": 24, "num_key_value_heads": 2, "max_position_embeddings": 4096},
        **{"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True},
        **{"bos_token_id": 50256, "eos_token_id": 50256},
    }

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.expect("norm_type", ["layer_norm"], "as StarCoder2 was released")
        settings.expect("mlp_type", ["default"], "as StarCoder2 was released")
        settings.seen.update(("residual_dropout", "embedding_dropout"))
        return {
            "norm_epsilon": settings.take("norm_epsilon", float, 1e-5),
            "use_bias": settings.take("use_bias", bool, True),
            "sliding_window": settings.count_or_none("sliding_window"),
        }

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {key: value for key, value in super().to_dict().items() if key != "rms_norm_eps"}


class Starcoder2Decoder(LlamaDecoder):
    """The layers of StarCoder2."""

    default_targets: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        attention = {name: shape for name, shape in super().layer_linears(config).items() if "self_attn" in name}
        d_model, d_ff = config.hidden_size, config.intermediate_size
        return {**attention, "mlp.c_fc": (d_ff, d_model), "mlp.c_proj": (d_model, d_ff)}

    @classmethod
    def biases(cls, config: Any) -> frozenset[str]:
        return frozenset(cls.layer_linears(config) if config.use_bias else ())

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        shapes = super().decoder_shapes(config)
        norms = [name for name in shapes if name.endswith("norm.weight")]
        return shapes | {f"{norm.removesuffix('.weight')}.bias": shapes[norm] for norm in norms}

    # ------------------------------------------------------------------ forward
    def window(self, layer: int) -> int | None:
        return self.config.sliding_window

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return layer_norm(x, weight, bias, self.config.norm_epsilon)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        inside = inside_mlp(self, [f"{name}.c_fc"], x, lambda up: activation(up, self.config.hidden_act))
        return self.linear(f"{name}.c_proj", inside)


class Starcoder2(Starcoder2Decoder, CausalLM):
    """Starcoder2ForCausalLM."""


class Starcoder2Classifier(Starcoder2Decoder, DecoderClassifier):
    """Starcoder2ForSequenceClassification."""
