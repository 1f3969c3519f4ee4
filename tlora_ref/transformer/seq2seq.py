"""Encoder-decoders: the call, the loss on the decoder's labels, and generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from tlora_ref.autograd import Tensor
from tlora_ref.backend import Array, to_numpy
from tlora_ref.errors import ConfigError, DataError, ShapeError
from tlora_ref.transformer.cache import KeyValueCache
from tlora_ref.transformer.generation import Stop, continued, ending_tokens
from tlora_ref.transformer.head import VocabularyHead, loss_divisor_of, next_token_logits
from tlora_ref.transformer.inputs import IGNORED, host_array, padding_mask, token_ids, token_labels
from tlora_ref.transformer.output import Output
from tlora_ref.transformer.sampling import Sampling


class Seq2SeqLM(VocabularyHead):
    """An encoder reads `input_ids`; a decoder that attends to it predicts the labels. A family implements both."""

    task_type = "SEQ_2_SEQ_LM"
    embedding_name: ClassVar[str] = "shared.weight"

    def encode(self, ids: Array, keep: Array | None) -> Tensor:
        """The encoder's hidden states (batch, tokens, d_model) of host `ids`; `keep` is False at padding."""
        raise NotImplementedError

    def decode(
        self, ids: Array, keep: Array | None, memory: Tensor, memory_keep: Array | None, cache: KeyValueCache | None
    ) -> Tensor:
        """The decoder's hidden states (batch, tokens, d_model), ready for the output matrix.

        ids, keep : host decoder tokens (batch, tokens), and False at their padding (batch, all tokens so far)
        memory, memory_keep : the encoder's hidden states, and False at its padding
        cache : where earlier tokens' keys and values are, or None
        """
        raise NotImplementedError

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        *,
        token_type_ids: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        loss_divisor: float | None = None,
    ) -> Output:
        """Forward pass over one sample (tokens,) or a padded batch (batch, tokens).

        Parameters
        ----------
        input_ids : integer token ids of the encoder
        attention_mask : 1 at its tokens, 0 at padding (either side)
        labels : token ids of the decoder, -100 where not scored; not shifted: the logits at t are scored against
            labels[t]. They may be of another length than `input_ids`
        decoder_input_ids : what the decoder reads; by default the labels shifted right (see `shifted_right`)
        decoder_attention_mask : 1 at the decoder's tokens, 0 at padding
        loss_divisor : what the summed loss is divided by; by default the number of scored labels, so the mean

        Raises
        ------
        DataError, ShapeError
            for ids outside the vocabulary, shapes that disagree, labels of which none is scored, or nothing to decode.
        """
        self.refuse(token_type_ids=token_type_ids)
        ids = token_ids(input_ids, self.config.vocab_size)
        keep = padding_mask(attention_mask, ids)
        decoder_ids, targets = self._decoder_inputs(decoder_input_ids, labels)
        if len(decoder_ids) != len(ids):
            raise ShapeError(
                f"the encoder is given {len(ids)} row(s) and the decoder {len(decoder_ids)}: they must agree"
            )
        decoder_keep = padding_mask(decoder_attention_mask, decoder_ids, "decoder_attention_mask")
        hidden = self.decode(decoder_ids, decoder_keep, self.encode(ids, keep), keep, None)
        self.observe_head(hidden)
        loss, tokens = (None, 0) if targets is None else self._loss(hidden, targets, loss_divisor)
        return Output(self.logits_of(hidden), loss, tokens, squeeze=np.ndim(input_ids) == 1)

    def _decoder_inputs(self, decoder_input_ids: Any, labels: Any) -> tuple[Array, Array | None]:
        """What the decoder reads, and its labels if there are any: host integers (batch, tokens)."""
        vocab = self.config.vocab_size
        if labels is None:
            if decoder_input_ids is None:
                raise DataError(
                    f"a {self.config.model_type} model needs labels=... or decoder_input_ids=...: the decoder has "
                    "nothing to read"
                )
            return token_ids(decoder_input_ids, vocab, "decoder_input_ids"), None
        values = np.atleast_2d(host_array(labels, "labels"))
        if decoder_input_ids is None:
            targets = token_labels(values, values, vocab)
            if targets.ndim != 2 or targets.size == 0:
                raise ShapeError(f"labels have shape {values.shape}: expected (tokens,) or (batch, tokens)")
            return self.shifted_right(targets), targets
        decoder_ids = token_ids(decoder_input_ids, vocab, "decoder_input_ids")
        return decoder_ids, token_labels(values, decoder_ids, vocab)

    def shifted_right(self, labels: Array) -> Array:
        """`decoder_start_token_id`, then all labels but the last, `pad_token_id` for -100: host (batch, tokens)."""
        shifted = np.empty_like(labels)
        shifted[:, 0] = self.start_token()
        shifted[:, 1:] = labels[:, :-1]
        if (shifted == IGNORED).any():
            shifted[shifted == IGNORED] = self._special_token("pad_token_id")
        return shifted

    def start_token(self) -> int:
        """What the decoder begins with."""
        return self._special_token("decoder_start_token_id")

    def _special_token(self, key: str) -> int:
        token = getattr(self.config, key)
        if token is None:
            raise ConfigError(f'config.json has no "{key}", which the decoder needs (0 for all published T5 models)')
        if not 0 <= token < self.config.vocab_size:
            raise ConfigError(
                f'config.json: "{key}" is {token}, but the vocabulary has {self.config.vocab_size} tokens'
            )
        return int(token)

    def _loss(self, hidden: Tensor, labels: Array, divisor: float | None) -> tuple[Tensor, int]:
        """Cross entropy of the labels under the logits of their own position, at scored positions alone."""
        row, column = np.nonzero(labels != IGNORED)
        if row.size == 0:
            raise DataError("no label is scored: every label is -100. Give at least one labelled token")
        put = self.device.put
        at, targets = put(row * hidden.shape[1] + column), put(labels[row, column])
        return self.token_loss(hidden, at, targets, loss_divisor_of(divisor, row.size)), int(row.size)

    def generate(self, input_ids: Any, attention_mask: Any = None, **options: Any) -> Array:
        """Answer a prompt: see `generate_answer`."""
        return generate_answer(self, input_ids, attention_mask, **options)


def generate_answer(
    model: Seq2SeqLM,
    input_ids: Any,
    attention_mask: Any = None,
    *,
    max_new_tokens: int = 64,
    seed: int | Sequence[int] = 0,
    eos_token_id: int | Sequence[int] | None = None,
    stop: Stop | None = None,
    use_cache: bool = True,
    on_token: Callable[[list[int]], None] | None = None,
    **sampling: Any,
) -> Array:
    """What the decoder says to a prompt (tokens,) or a padded batch of prompts (batch, tokens).

    Parameters
    ----------
    as those of `tlora_ref.transformer.generation.generate`; the repetition penalty and `stop` see what the decoder
    says, and not the prompt, as in transformers

    Returns
    -------
    Host integers, 1-D for a 1-D prompt, else (batch, longest): `decoder_start_token_id` and what follows it, with
    `pad_token_id` filling rows that ended early. The prompt is not among them.
    """
    ids = token_ids(input_ids, model.config.vocab_size)
    keep = padding_mask(attention_mask, ids)
    view, eos = model.watching([]), ending_tokens(model, eos_token_id)
    memory = view.encode(ids, keep)
    cache = KeyValueCache(1 + max_new_tokens) if use_cache else None

    def next_logits(made: Array) -> Array:
        seen = 0 if cache is None else cache.length
        hidden = view.decode(made[:, seen:], None, memory, keep, cache)
        if cache is not None:
            cache.advance(made[:, seen:])
        return to_numpy(next_token_logits(view, hidden))

    made = continued(
        np.full((len(ids), 1), view.start_token(), dtype=np.int64),
        next_logits,
        keep=None,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(**sampling),
        seed=seed,
        eos=eos,
        stop=stop,
        filler=(eos or (0,))[0] if model.config.pad_token_id is None else model.config.pad_token_id,
        on_token=on_token,
    )
    return made[0] if np.ndim(input_ids) == 1 else made
