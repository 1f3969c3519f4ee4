"""Ministral 3 (Mistral AI, 2025), its language model: Mistral without a window, the later queries enlarged.

A query at position t is multiplied by 1 + beta ln(1 + floor(t / L)), L being the length that the model was trained
with before it was stretched: 1 up to there (as in Llama 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tlora_ref.autograd import Tensor, multiply
from tlora_ref.backend import asarray
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.causal import CausalLM
from tlora_ref.transformer.classification import DecoderClassifier
from tlora_ref.transformer.llama import Surroundings
from tlora_ref.transformer.mistral import MistralConfig, MistralDecoder
from tlora_ref.transformer.rope import STRETCHED, TRAINED, Rope
from tlora_ref.transformer.settings import Settings

BETA = "llama_4_scaling_beta"


@dataclass(frozen=True)
class Ministral3Config(MistralConfig):
    """What defines a Ministral 3; `beta` is 0 where queries are not enlarged."""

    beta: float = 0.1
    sliding_window: int | None = None
    model_type: str = "ministral3"

    prefix = "Ministral3"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{**MistralConfig.defaults, "sliding_window": None, "head_dim": 128, "max_position_embeddings": 262144},
        **{"rms_norm_eps": 1e-5, "pad_token_id": 11},
        "rope_parameters": {
            **{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384},
            **{"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, BETA: 0.1},
        },
    }

    @classmethod
    def read_rope(cls, settings: Settings, head_dim: int) -> dict[str, Any]:
        """`rope_parameters`, which hold beta and the trained length as well."""
        given = settings.take("rope_scaling", dict, None) or settings.take("rope_parameters", dict, None) or {}
        values = {key: value for key, value in given.items() if key != "max_position_embeddings"}
        beta = values.pop(BETA, None)
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not beta >= 0:
            raise ConfigError(f'config.json: "rope_parameters" needs "{BETA}", a number from 0 on, got {beta!r}')
        apart = {"rope_scaling": None, "rope_parameters": values}
        rope = Rope.read(Settings({**settings.values, **apart}, cls.model_type), head_dim)
        settings.seen.update(("rope_theta", "rope_parameters", TRAINED))
        if rope.kind not in STRETCHED:
            raise ConfigError(
                f'config.json: rope type "{rope.kind}" of a ministral3 model: expected one of {STRETCHED}'
            )
        return {"rope": rope, "beta": float(beta)}

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads (5 alone has this family)."""
        values = super().to_dict()
        scaling = {"rope_theta": values.pop("rope_theta"), **values.pop("rope_scaling"), BETA: values.pop("beta")}
        return {**values, "rope_parameters": scaling}


class Ministral3Decoder(MistralDecoder):
    """The layers of Ministral 3."""

    def placed(self, q: Tensor, k: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        q, k = super().placed(q, k, around)
        stretches = np.floor(around.positions / self.config.rope.parameters[TRAINED])
        factor = 1.0 + self.config.beta * np.log1p(stretches)  # (1 or batch, tokens)
        return multiply(q, Tensor(asarray(factor[..., None, None], q.data, q.dtype))), k


class Ministral3(Ministral3Decoder, CausalLM):
    """Ministral3ForCausalLM."""


class Ministral3Classifier(Ministral3Decoder, DecoderClassifier):
    """Ministral3ForSequenceClassification."""
