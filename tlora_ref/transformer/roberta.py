"""RoBERTa (Liu et al., arXiv 1907.11692): BERT's encoder, with other positions and another head.

positions: the first token that is not `pad_token_id` stands at pad_token_id + 1; padding stands at pad_token_id
classifier: logits = classifier.out_proj( tanh( classifier.dense( x at <s> ) ) )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tlora_ref.autograd import Tensor, activation
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.bert import Bert, BertConfig
from tlora_ref.transformer.classification import EncoderClassifier


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """What defines a RoBERTa, under transformers' names."""

    pad_token_id: int = 1
    model_type: str = "roberta"

    name: ClassVar[str] = "Roberta"
    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 50265,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }

    def __post_init__(self) -> None:
        if not isinstance(self.pad_token_id, int):
            raise ConfigError('config.json: "pad_token_id" is null: the positions of a roberta model count from it')
        if not 0 <= self.pad_token_id < self.max_position_embeddings - 1:
            raise ConfigError(
                f'config.json: "pad_token_id" is {self.pad_token_id}: the positions of a roberta model count from it, '
                f"and there are {self.max_position_embeddings}"
            )


class Roberta(Bert):
    """RobertaModel. Its pooler takes no part in `out.hidden`; it is kept so that a saved folder is whole."""

    config: RobertaConfig
    base = "roberta"

    @property
    def context(self) -> int:
        return int(self.config.max_position_embeddings - self.config.pad_token_id - 1)

    def positions(self, ids: Array) -> Array:
        """As in transformers they follow from the ids, whatever the mask says."""
        pad = self.config.pad_token_id
        tokens = ids != pad
        return np.cumsum(tokens, axis=1) * tokens + pad


class RobertaClassifier(EncoderClassifier, Roberta):
    """RobertaForSequenceClassification: no pooler; one that a file has is left out, as in transformers."""

    prefix = "roberta."

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model = config.hidden_size
        return {"classifier.dense": (d_model, d_model), "classifier.out_proj": (len(config.labels), d_model)}

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        tensors = super().sanitize(tensors, config)
        return {name: x for name, x in tensors.items() if not name.startswith("roberta.pooler.")}

    def head(self, first: Tensor) -> Tensor:
        return self.linear("classifier.out_proj", activation(self.linear("classifier.dense", first), "tanh"))
