"""ELECTRA (Clark et al., arXiv 2003.10555): BERT's encoder, trained to tell replaced tokens from real ones.

embeddings: where they are narrower than the layers (`embedding_size`), a linear map follows them
classifier: logits = classifier.out_proj( gelu( classifier.dense( x at [CLS] ) ) )

The discriminator is what is fine-tuned; the small generator beside it has the same layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, activation
from tlora_ref.backend import Array
from tlora_ref.transformer.bert import Bert, BertConfig
from tlora_ref.transformer.classification import EncoderClassifier
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """What defines an ELECTRA, under transformers' names."""

    embedding_size: int = 128
    model_type: str = "electra"

    name: ClassVar[str] = "Electra"
    defaults: ClassVar[Mapping[str, Any]] = {
        **{"vocab_size": 30522, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
        "pad_token_id": 0,
    }

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        settings.seen.add("summary_last_dropout")  # of the multiple choice head, as the other summary_ keys
        return {"embedding_size": settings.count("embedding_size", 128)}


class Electra(Bert):
    """ElectraModel."""

    config: ElectraConfig
    base = "electra"

    @classmethod
    def embedding_width(cls, config: Any) -> int:
        return int(config.embedding_size)

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        if config.embedding_size == config.hidden_size:
            return {}
        return {f"{cls.prefix}embeddings_project": (config.hidden_size, config.embedding_size)}

    def _embedded(self, ids: Array, token_type_ids: Any) -> Tensor:
        x, project = super()._embedded(ids, token_type_ids), f"{self.prefix}embeddings_project"
        return self.linear(project, x) if f"{project}.weight" in self.tensors else x


class ElectraClassifier(EncoderClassifier, Electra):
    """ElectraForSequenceClassification."""

    prefix = "electra."

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        d_model = config.hidden_size
        head = {"classifier.dense": (d_model, d_model), "classifier.out_proj": (len(config.labels), d_model)}
        return {**super().head_linears(config), **head}

    def head(self, first: Tensor) -> Tensor:
        return self.linear("classifier.out_proj", activation(self.linear("classifier.dense", first), "gelu"))
