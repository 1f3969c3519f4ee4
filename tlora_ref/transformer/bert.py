"""BERT (Devlin et al., arXiv 1810.04805): the encoder (see `encoder`), bare or with a sequence classifier.

classifier: logits = classifier( tanh( pooler.dense( x at [CLS] ) ) )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from tlora_ref.autograd import Tensor, activation, check_activation
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.classification import EncoderClassifier, head_dict, read_head
from tlora_ref.transformer.encoder import Encoder, Names
from tlora_ref.transformer.settings import Settings

#: Keys of Google's first configurations that no model of transformers reads.
UNREAD = (
    *("directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type", "tie_word_embeddings"),
)


@dataclass(frozen=True)
class BertConfig:
    """What defines a BERT, under transformers' names; `pooler` says whether the file of a bare one has it."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    architecture: str = "BertModel"
    labels: tuple[str, ...] = ()
    pooler: bool = True
    model_type: str = "bert"

    #: The family's name in transformers' class names, and its values of keys that a config.json leaves out.
    name: ClassVar[str] = "Bert"
    defaults: ClassVar[Mapping[str, Any]] = {"vocab_size": 30522, "pad_token_id": 0}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the contents of a config.json; ConfigError for a key that is wrong or unknown."""
        settings = Settings({**cls.defaults, **values}, cls.model_type)
        settings.expect("position_embedding_type", ["absolute"], "one learned vector a position")
        settings.expect("is_decoder", [False], "an encoder")
        settings.expect("add_cross_attention", [False], "an encoder")
        settings.seen.update(UNREAD)
        config = cls(
            vocab_size=settings.count("vocab_size"),
            hidden_size=settings.count("hidden_size", 768),
            num_hidden_layers=settings.count("num_hidden_layers", 12),
            num_attention_heads=settings.count("num_attention_heads", 12),
            intermediate_size=settings.count("intermediate_size", 3072),
            hidden_act=check_activation(settings.take("hidden_act", str, "gelu")),
            max_position_embeddings=settings.count("max_position_embeddings", 512),
            type_vocab_size=settings.count("type_vocab_size", 2),
            layer_norm_eps=settings.take("layer_norm_eps", float, 1e-12),
            bos_token_id=settings.token_id("bos_token_id"),
            eos_token_id=settings.token_id("eos_token_id"),
            pad_token_id=settings.token_id("pad_token_id"),
            **read_head(settings, f"{cls.name}Model"),
            **cls.own_fields(settings),
        )
        settings.finish()
        if config.hidden_size % config.num_attention_heads:
            raise ConfigError(
                f'config.json: "hidden_size" {config.hidden_size} is not a multiple of "num_attention_heads" '
                f"{config.num_attention_heads}"
            )
        return config

    @classmethod
    def own_fields(cls, settings: Settings) -> dict[str, Any]:
        """The fields that a relative of BERT has beside BERT's."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """A config.json that transformers reads."""
        apart = ("architecture", "labels", "pooler")
        return {**head_dict(self), **{k: v for k, v in self.__dict__.items() if k not in apart}}


class Bert(Encoder):
    """BertModel. Its pooler takes no part in `out.hidden`; it is kept so that a saved folder is whole."""

    config: BertConfig
    base = "bert"
    names = Names(
        layers="encoder.layer",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        out="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        up="intermediate.dense",
        down="output.dense",
        norm="output.LayerNorm",
    )
    default_targets = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")

    @classmethod
    def tables(cls, config: Any) -> dict[str, int]:
        return {**super().tables(config), "token_type_embeddings": config.type_vocab_size}

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        return {f"{cls.prefix}pooler.dense": (config.hidden_size, config.hidden_size)} if config.pooler else {}

    @classmethod
    def fitted(cls, config: Any, tensors: Mapping[str, Array]) -> Any:
        """A bare encoder may come without its pooler, which takes no part in its hidden states (RoBERTa-base does)."""
        expected = "pooler.dense" in cls.head_linears(config)  # of a bare one, whose names have no prefix
        without = expected and not any(name.startswith("pooler.") for name in tensors)
        return replace(config, pooler=False) if without else config


class BertClassifier(EncoderClassifier, Bert):
    """BertForSequenceClassification."""

    prefix = "bert."

    @classmethod
    def head_linears(cls, config: Any) -> dict[str, tuple[int, int]]:
        return {**super().head_linears(config), "classifier": (len(config.labels), config.hidden_size)}

    def head(self, first: Tensor) -> Tensor:
        return self.linear("classifier", activation(self.linear("bert.pooler.dense", first), "tanh"))
