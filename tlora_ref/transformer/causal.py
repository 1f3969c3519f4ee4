"""Decoders, and the language models made of them: the call, the shifted loss, and the door to generation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from tlora_ref.autograd import Tensor, Visibility
from tlora_ref.backend import Array
from tlora_ref.errors import CheckpointError, ConfigError, DataError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.generation import generate
from tlora_ref.transformer.head import VocabularyHead, loss_divisor_of
from tlora_ref.transformer.inputs import (
    IGNORED,
    first_of_sample,
    packed_samples,
    padding_mask,
    positions_of,
    sample_begins,
    token_ids,
    token_labels,
)
from tlora_ref.transformer.model import Model
from tlora_ref.transformer.output import Output


class Decoder(Model):
    """Layers in which each token sees those before it. A family implements these; a task class adds the head."""

    embedding_name: ClassVar[str] = "model.embed_tokens.weight"

    @classmethod
    def decoder_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        """Name and in-memory shape of every tensor but the head's."""
        raise NotImplementedError

    @classmethod
    def decoder_modules(cls, config: Any) -> list[str]:
        """Paths of all linear modules but the head, in model order."""
        raise NotImplementedError

    @classmethod
    def embedding_tables(cls, config: Any) -> list[str]:
        return [cls.embedding_name.removesuffix(".weight")]

    def hidden_states(self, ids: Array, positions: Array, keep: Array | None, cache: KeyValueCache | None) -> Tensor:
        """The final hidden states (batch, tokens, d_model), normalised, ready for the head.

        ids, positions : host integers (batch, tokens), (1 or batch, tokens)
        keep : host (batch, keys): booleans, False at padding; or integers, the numbers of the samples that are packed
            into a row, 0 at padding; or None
        cache : where earlier tokens' keys and values are, or None
        """
        raise NotImplementedError

    @property
    def horizon(self) -> int | None:
        """The length beyond which keys and values of shorter sequences are others, None where they never change."""
        return None

    def causal(self, keep: Array | None) -> Visibility:
        """Each token sees itself and those before it in its sample, padding excepted."""
        if keep is None:
            return Visibility(causal=True)
        first = None if keep.dtype == bool else first_of_sample(keep)
        return Visibility(causal=True, keys=self.device.put(keep != 0), first=first)


class CausalLM(Decoder, VocabularyHead):
    """A decoder that predicts each token from those before it."""

    task_type = "CAUSAL_LM"

    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        shapes = cls.decoder_shapes(config)
        return shapes if config.tie_word_embeddings else {**shapes, cls.output_name: shapes[cls.embedding_name]}

    @classmethod
    def linear_modules(cls, config: Any) -> list[str]:
        output = [] if config.tie_word_embeddings else [cls.output_name.removesuffix(".weight")]
        return [*cls.decoder_modules(config), *output]

    @classmethod
    def sanitize(cls, tensors: dict[str, Array], config: Any) -> dict[str, Array]:
        """Drop the copy of a tied output matrix that some checkpoints store, if it is one."""
        tensors = super().sanitize(tensors, config)
        copy = tensors.pop(cls.output_name, None) if config.tie_word_embeddings else None
        if copy is not None and not np.array_equal(copy, tensors.get(cls.embedding_name, copy)):
            raise CheckpointError(
                f"{cls.output_name} differs from {cls.embedding_name}, but config.json says that they are one: for an "
                'output matrix of its own set "tie_word_embeddings" to false'
            )
        return tensors

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        *,
        token_type_ids: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        segments: Any = None,
        loss_divisor: float | None = None,
    ) -> Output:
        """Forward pass over one sample (tokens,) or a padded batch (batch, tokens).

        Parameters
        ----------
        input_ids : integer token ids
        attention_mask : 1 at tokens, 0 at padding (either side); positions count from the first token
        labels : token ids, -100 where not scored; shifted inside: the logits at t are scored against labels[t + 1]
        segments : in place of attention_mask, for rows of several samples: the number of each token's sample, 0 at
            padding. No sample sees another, positions count from each one's first token, which is never scored
        loss_divisor : what the summed loss is divided by; by default the number of scored labels, so the mean

        Raises
        ------
        ConfigError
            for a divisor that is not positive, or a family whose samples cannot share a row.
        DataError, ShapeError
            for ids outside the vocabulary, shapes that disagree, or labels of which none is scored.
        """
        self.refuse(
            token_type_ids=token_type_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
        )
        ids = token_ids(input_ids, self.config.vocab_size)
        keep = padding_mask(attention_mask, ids) if segments is None else self._packed(segments, ids, attention_mask)
        hidden = self.hidden_states(ids, positions_of(keep, ids.shape[1]), keep, None)
        self.observe_head(hidden)
        loss, tokens = None, 0
        if labels is not None:
            targets = token_labels(labels, ids, self.config.vocab_size)
            if segments is not None and keep is not None:
                targets[sample_begins(keep)] = IGNORED  # what comes before it is another sample
            loss, tokens = self._loss(hidden, targets, loss_divisor)
        return Output(self.logits_of(hidden), loss, tokens, squeeze=np.ndim(input_ids) == 1)

    def _packed(self, segments: Any, ids: Array, attention_mask: Any) -> Array:
        """The checked numbers of the samples, for a family that can tell them apart."""
        if attention_mask is not None:
            raise DataError("segments are 0 at padding already: leave attention_mask out")
        numbers = packed_samples(segments, ids)
        reason = self.not_packed(int(positions_of(numbers, ids.shape[1]).max()) + 1)
        if reason is not None:
            raise ConfigError(f"segments: the samples of a {self.config.model_type} model cannot share a row: {reason}")
        return numbers

    def not_packed(self, longest: int) -> str | None:
        """See `Model.not_packed`. Rotary tables that depend on a batch's longest sample would differ with its rows."""
        rope = getattr(self.config, "rope", None)
        if rope is not None and rope.steady_length is not None and longest > rope.steady_length:
            return (
                f'its rotary positions (rope type "{rope.kind}") change for all samples of a batch once one of them is '
                f"longer than {rope.steady_length:g} tokens, and the longest here has {longest}"
            )
        return None

    def _loss(self, hidden: Tensor, labels: Array, divisor: float | None) -> tuple[Tensor, int]:
        """Cross entropy of labels[:, 1:] under the logits one position earlier, at scored positions alone."""
        row, column = np.nonzero(labels[:, 1:] != IGNORED)
        if row.size == 0:
            raise DataError(
                "no label is scored: every label but the first is -100 (the first is never predicted). "
                "Give at least one labelled token after the first"
            )
        put = self.device.put
        at, targets = put(row * hidden.shape[1] + column), put(labels[row, column + 1])
        return self.token_loss(hidden, at, targets, loss_divisor_of(divisor, row.size)), int(row.size)

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Array:
        """Continue a prompt: see `tlora_ref.transformer.generation.generate`."""
        return generate(self, input_ids, attention_mask, **options)
