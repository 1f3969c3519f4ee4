"""Granite 4 (IBM, 2025) without experts and without Mamba, as its micro, 1B and 350M are: Granite 3 whose gate and up
come from one matrix, `input_linear`, all gates first. Where it has no rotary embedding, its attention sees no order but
that of the causal mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.granite import Granite, GraniteConfig
from tlora_ref.transformer.llama import Angles
from tlora_ref.transformer.mlp import gated_halves, inside_mlp
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class GraniteHybridConfig(GraniteConfig):
    """What defines a dense Granite 4."""

    shared_intermediate_size: int = 1024
    position_embedding_type: str | None = None
    num_local_experts: int = 0
    layer_types: tuple[str, ...] = ()
    model_type: str = "granitemoehybrid"

    prefix = "GraniteMoeHybrid"
    defaults: ClassVar[Mapping[str, Any]] = {**GraniteConfig.defaults, "intermediate_size": 11008}

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.values.setdefault("num_local_experts", 8)  # transformers' own default
        settings.expect("num_local_experts", [0], "a mixture of experts")
        settings.expect("normalization_function", ["rmsnorm"], "as every checkpoint has it")
        routing = ("num_experts_per_tok", "output_router_logits", "router_aux_loss_coef", "time_step_limit")
        settings.seen.update((*routing, "init_method", *(key for key in settings.values if key.startswith("mamba_"))))
        settings.expect("position_embedding_type", ["rope", "nope"], "rotary, or none")
        positions = settings.take("position_embedding_type", str, None)
        return {
            **super().own_fields(settings),
            "shared_intermediate_size": settings.count("shared_intermediate_size", 1024),
            "position_embedding_type": positions,
            "layer_types": _read_kinds(settings, settings.count("num_hidden_layers")),
        }

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads: the sizes of Mamba must fit the model, though no layer has them."""
        return {**super().to_dict(), "mamba_expand": 2, "mamba_n_heads": 1, "mamba_d_head": 2 * self.hidden_size}


def _read_kinds(settings: Settings, layers: int) -> tuple[str, ...]:
    """`layer_types`, which must be attention in every layer: all would be Mamba's without it."""
    kinds = settings.take("layer_types", list, settings.take("layers_block_type", list, ["mamba"] * layers))
    if len(kinds) != layers or any(kind not in ("attention", "full_attention") for kind in kinds):
        raise ConfigError(
            f'config.json: "layer_types" is {kinds}: expected {layers} times "attention" (layers of Mamba are not '
            "implemented)"
        )
    return ("full_attention",) * layers


class GraniteHybrid(Granite):
    """GraniteMoeHybridForCausalLM. transformers has no classifier of this family."""

    default_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear")

    @classmethod
    def layer_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model, d_ff = config.hidden_size, config.shared_intermediate_size
        attention = {m: shape for m, shape in super().layer_linears(config).items() if m.startswith("self_attn.")}
        return {
            **attention,
            "shared_mlp.input_linear": (2 * d_ff, d_model),
            "shared_mlp.output_linear": (d_model, d_ff),
        }

    def angles(self, positions: Array, like: Array) -> list[Angles | None]:
        if self.config.position_embedding_type != "rope":
            return [None] * self.config.num_hidden_layers
        return super().angles(positions, like)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        name, act = name.replace(".mlp", ".shared_mlp"), self.config.hidden_act
        inside = inside_mlp(self, [f"{name}.input_linear"], x, lambda both: gated_halves(both, act))
        return self.linear(f"{name}.output_linear", inside)  # of (batch, tokens, d_ff)
