"""The output layer of language models: hidden states to logits, and to the loss of the scored tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from tlora_ref.autograd import Tensor, cross_entropy, linear_cross_entropy, reshape, scale, soft_cap, take_rows
from tlora_ref.backend import Array
from tlora_ref.errors import ConfigError
from tlora_ref.transformer.model import Model


def loss_divisor_of(given: float | None, scored: int) -> float:
    """What a summed loss is divided by: what the caller gave, or the number of scored labels."""
    if given is None:
        return float(scored)
    if not given > 0:
        raise ConfigError(f"loss_divisor is {given}: expected a number above 0, or None for the number of labels")
    return float(given)


class VocabularyHead(Model):
    """A model that ends in a matrix (vocab, d_model), its own or the embedding's.

    Only a matrix of its own is a linear module that TLoRA makes an adapter for; another's may sit on a tied one.
    """

    #: Name of the embedding matrix; where `tie_word_embeddings` is set it is the output matrix as well.
    embedding_name: ClassVar[str]
    output_name: ClassVar[str] = "lm_head.weight"

    @classmethod
    def ties(cls, config: Any) -> dict[str, str]:
        return {cls.output_name: cls.embedding_name} if config.tie_word_embeddings else {}

    @classmethod
    def untied(cls, config: Any, tensors: dict[str, Array], apart: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
        return replace(config, tie_word_embeddings=False), {**tensors, **apart}

    def output_matrix(self) -> Tensor:
        """The (vocab, d_model) matrix that turns hidden states into logits."""
        return self.parameter(self.output_name)

    def head(self) -> Callable[[Tensor], Tensor]:
        """The map (..., d_model) -> logits (..., vocab), with the weights and the adapter of this moment."""
        output = self.bound(self.output_name.removesuffix(".weight"))
        cap = self.logit_cap
        if cap is not None:
            return lambda x: soft_cap(output(self._divided(x)), cap)
        return lambda x: output(self._divided(x))

    @property
    def logit_cap(self) -> float | None:
        """The soft cap of the logits, None for none."""
        return None

    @property
    def logit_divisor(self) -> float:
        """What the logits are divided by, before a cap."""
        return 1.0

    def _divided(self, hidden: Tensor) -> Tensor:
        """`hidden` over the divisor of the logits: the same logits, by fewer divisions (d_model numbers, not vocab)."""
        return hidden if self.logit_divisor == 1.0 else scale(hidden, 1.0 / self.logit_divisor)

    def observe_head(self, hidden: Tensor) -> None:
        """Show the observer what the output layer is given: every token, scored or not."""
        if not self.config.tie_word_embeddings:
            self.observe(self.output_name.removesuffix(".weight"), hidden)

    def token_loss(self, hidden: Tensor, at: Array, targets: Array, divisor: float) -> Tensor:
        """Cross entropy, summed over the scored tokens and divided by `divisor`.

        hidden (batch, tokens, d_model); at (scored,) their rows among batch * tokens; targets (scored,). All logits
        are never held at once, unless an adapter sits on the output layer.
        """
        rows = take_rows(reshape(hidden, (-1, hidden.shape[-1])), at)  # (scored, d_model)
        if self.adapts(self.output_name.removesuffix(".weight")):
            return cross_entropy(self.head()(rows), targets, divisor)
        return linear_cross_entropy(self._divided(rows), self.output_matrix(), targets, divisor, self.logit_cap)

    def logits_of(self, hidden: Tensor) -> Callable[[], Array]:
        """The logits of `hidden`, computed when called."""
        head, final = self.head(), Tensor(hidden.data)
        return lambda: head(final).data


def next_token_logits(model: Any, hidden: Tensor) -> Array:
    """Logits (batch, vocab) after the last of `hidden` (batch, tokens, d_model)."""
    return model.head()(Tensor(hidden.data[:, -1])).data
