"""DistilBERT (Sanh et al., arXiv 1910.01108): BERT's encoder (see `encoder`) without token types and pooler.

classifier: logits = classifier( relu( pre_classifier( x at [CLS] ) ) )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, activation, check_activation
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.classification import EncoderClassifier, head_dict, read_head
from tlora_ref.transformer.encoder import Encoder, Names
from tlora_ref.transformer.settings import Settings


@dataclass(frozen=True)
class DistilBertConfig:
    """What defines a DistilBERT, under transformers' names; the properties are the names that `Encoder` reads."""

    vocab_size: int = 30522
    dim: int = 768
    hidden_dim: int = 3072
    n_layers: int = 6
    n_heads: int = 12
    activation: str = "gelu"
    max_position_embeddings: int = 512
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = 0
    architecture: str = "DistilBertModel"
    labels: tuple[str, ...] = ()
    model_type: str = "distilbert"

    #: Fixed in transformers' code.
    layer_norm_eps: ClassVar[float] = 1e-12

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistilBertConfig:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({"pad_token_id": 0, **values}, "distilbert")
        # Sinusoidal positions are written into the table when it is made: it is a stored tensor either way.
        settings.seen.update(("sinusoidal_pos_embds", "qa_dropout", "seq_classif_dropout", "tie_word_embeddings"))
        settings.seen.add("tie_weights_")
        config = cls(
            vocab_size=settings.count("vocab_size", 30522),
            dim=settings.count("dim", 768),
            hidden_dim=settings.count("hidden_dim", 3072),
            n_layers=settings.count("n_layers", 6),
            n_heads=settings.count("n_heads", 12),
            activation=check_activation(settings.take("activation", str, "gelu")),
            max_position_embeddings=settings.count("max_position_embeddings", 512),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_id("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, "DistilBertModel"),
        )
        settings.finish()
        if config.dim % config.n_heads:
            raise ConfigError(f'config.json: "dim" {config.dim} is not a multiple of "n_heads" {config.n_heads}')
        return config

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        return {**head_dict(self), **{k: v for k, v in self.__dict__.items() if k not in ("architecture", "labels")}}

    @property
    def hidden_size(self) -> int:
        return self.dim

    @property
    def intermediate_size(self) -> int:
        return self.hidden_dim

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layers

    @property
    def num_attention_heads(self) -> int:
        return self.n_heads

    @property
    def hidden_act(self) -> str:
        return self.activation


class DistilBert(Encoder):
    """DistilBertModel."""

    config: DistilBertConfig
    base = "distilbert"
    inside = ("embeddings", "transformer.")
    names = Names(
        layers="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        out="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        norm="output_layer_norm",
    )
    default_targets = ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2")


class DistilBertClassifier(EncoderClassifier, DistilBert):
    """DistilBertForSequenceClassification."""

    prefix = "distilbert."

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        return {"pre_classifier": (config.dim, config.dim), "classifier": (len(config.labels), config.dim)}

    def head(self, first: Tensor) -> Tensor:
        return self.linear("classifier", activation(self.linear("pre_classifier", first), "relu"))
