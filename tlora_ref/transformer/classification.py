"""Sequence classification: what all classifiers share, and the heads that decoders and encoders get."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tlora_ref.autograd import Tensor, cross_entropy, reshape, take_rows
from tlora_ref.backend import Array, to_numpy
from tlora_ref.errors import ConfigError, DataError, ShapeError
from tlora_ref.transformer.causal import Decoder
from tlora_ref.transformer.encoder import Encoder
from tlora_ref.transformer.head import loss_divisor_of
from tlora_ref.transformer.holding import HEADS
from tlora_ref.transformer.inputs import padding_mask, positions_of, token_ids
from tlora_ref.transformer.output import Output
from tlora_ref.transformer.settings import MAX_CLASSES, Settings, told, told_names


# ---------------------------------------------------------------------------------------------- configuration
def read_head(settings: Settings, default: str) -> dict[str, Any]:
    """The fields `architecture` and `labels` (the classes' names; none unless it is a classifier).

    default : the architecture where config.json names none; a bare encoder's is its own whatever other head it has
    """
    names = settings.take("architectures", (list, str), None) or [default]
    names = [names] if isinstance(names, str) else names
    if not isinstance(names[0], str):
        raise ConfigError(f'config.json: "architectures" is {told(names)}, expected names')
    settings.seen.update(("num_labels", "id2label", "label2id", "problem_type"))
    if not str(names[0]).endswith("ForSequenceClassification"):
        return {"architecture": default if default.endswith("Model") else names[0], "labels": ()}
    settings.expect("problem_type", ["single_label_classification"], "cross entropy over the classes")
    id2label = settings.take("id2label", dict, None)
    count = settings.count("num_labels", 2 if id2label is None else max(1, len(id2label)), most=MAX_CLASSES)
    if id2label is None:
        id2label = {i: f"LABEL_{i}" for i in range(count)}
    labels = _label_names(id2label)
    if len(labels) != count:
        raise ConfigError(f'config.json: "num_labels" is {count}, but "id2label" names {len(labels)} classes')
    if count < 2:
        raise ConfigError("config.json: a classifier of 1 class is a regression, which is not implemented")
    return {"architecture": str(names[0]), "labels": labels}


def _label_names(id2label: Mapping[Any, Any]) -> tuple[str, ...]:
    """The classes' names in order, from {"0": name, "1": name, ...}."""
    by_key = {str(key): str(name) for key, name in id2label.items()}
    wanted = [str(i) for i in range(len(by_key))]
    if set(by_key) != set(wanted):
        raise ConfigError(f'config.json: "id2label" has the keys {told_names(by_key)}: expected {told_names(wanted)}')
    return tuple(by_key[key] for key in wanted)


def head_dict(config: Any) -> dict[str, Any]:
    """What `read_head` reads, as keys of a config.json."""
    values: dict[str, Any] = {"architectures": [config.architecture]}
    if config.labels:
        values["id2label"] = {str(i): name for i, name in enumerate(config.labels)}
        values["label2id"] = {name: i for i, name in enumerate(config.labels)}
        values["problem_type"] = "single_label_classification"
    return values


def head_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Those of the modules that transformers calls the heads of its classifiers."""
    return {name: x for name, x in tensors.items() if name.partition(".")[0] in HEADS}


# ---------------------------------------------------------------------------------------------- loss
def class_labels(labels: Any, batch: int, classes: int) -> Array:
    """Labels as host integers (batch,): a single class, or one a row."""
    values = np.asarray(to_numpy(labels))
    if values.size != batch or values.ndim > 1:
        raise ShapeError(f"labels have shape {values.shape}: expected one class a row, ({batch},)")
    if values.dtype.kind not in "iu":
        raise DataError(f"labels are {values.dtype}: expected integer classes")
    if values.min() < 0 or values.max() >= classes:
        worst = int(values.min()) if values.min() < 0 else int(values.max())
        raise DataError(f"labels hold {worst}: expected a class, 0 to {classes - 1}")
    return values.reshape(batch).astype(np.int64)


def classified(
    logits: Tensor, labels: Any, divisor: float | None, put: Any, squeeze: bool, hidden: Tensor | None = None
) -> Output:
    """The output of a classifier from its logits (batch, classes).

    labels : a class, or (batch,) classes, or None
    divisor : what the summed cross entropy is divided by; by default the number of rows, so the mean
    put : puts a host array on the model's device
    squeeze : whether the caller passed one sample without its batch axis
    hidden : an encoder's last hidden states (batch, tokens, d_model)
    """
    loss, rows = None, 0
    if labels is not None:
        batch, classes = logits.shape
        targets, rows = class_labels(labels, batch, classes), batch
        loss = cross_entropy(logits, put(targets), loss_divisor_of(divisor, rows))
    array = logits.data
    return Output(lambda: array, loss, rows, squeeze, hidden)


# ---------------------------------------------------------------------------------------------- decoders
class DecoderClassifier(Decoder):
    """A decoder whose hidden state at the last token is mapped to classes by `score`."""

    task_type = "SEQ_CLS"

    @classmethod
    def tensor_shapes(cls, config: Any) -> dict[str, tuple[int, ...]]:
        shapes = cls.decoder_shapes(config)
        return {**shapes, "score.weight": (len(config.labels), shapes[cls.embedding_name][1])}

    @classmethod
    def linear_modules(cls, config: Any) -> list[str]:
        return [*cls.decoder_modules(config), "score"]

    def whole_head(self) -> dict[str, Array]:
        return head_tensors(self.tensors)

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
        input_ids : integer token ids
        attention_mask : 1 at tokens, 0 at padding (either side)
        labels : a class, or (batch,) classes
        loss_divisor : what the summed loss is divided by; by default the number of rows, so the mean

        Raises
        ------
        ConfigError
            for a batch of several rows if the configuration names no `pad_token_id`.
        DataError, ShapeError
            for ids outside the vocabulary, shapes that disagree, or labels that are no classes.
        """
        self.refuse(
            token_type_ids=token_type_ids,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
        )
        ids = token_ids(input_ids, self.config.vocab_size)
        keep = padding_mask(attention_mask, ids)
        last = self._last_tokens(ids, keep)
        hidden = self.hidden_states(ids, positions_of(keep, ids.shape[1]), keep, None)
        scores = self.linear("score", hidden)  # (batch, tokens, classes): every token, as transformers computes it
        batch, tokens, classes = scores.shape
        rows = self.device.put(np.arange(batch) * tokens + last)
        logits = take_rows(reshape(scores, (batch * tokens, classes)), rows)
        return classified(logits, labels, loss_divisor, self.device.put, squeeze=np.ndim(input_ids) == 1)

    def _last_tokens(self, ids: Array, keep: Array | None) -> Array:
        """Column of each row's last token (batch,): as in transformers, the last id that is not `pad_token_id`."""
        pad, (batch, tokens) = self.config.pad_token_id, ids.shape
        if pad is None and batch > 1:
            raise ConfigError(
                "a batch of several rows needs to know where each ends: config.json has no pad_token_id. Set it, or "
                "classify one row at a time"
            )
        last = np.full(batch, tokens - 1) if pad is None else (np.arange(tokens) * (ids != pad)).argmax(axis=1)
        if keep is not None and not keep[np.arange(batch), last].all():
            row = int(np.argmin(keep[np.arange(batch), last]))
            raise DataError(
                f"row {row}: the last token by id (column {int(last[row])}, the last that is not pad_token_id {pad}) "
                "is padding in attention_mask: pad with pad_token_id"
            )
        return last


# ---------------------------------------------------------------------------------------------- encoders
class EncoderClassifier(Encoder):
    """An encoder whose hidden state at the first token (`[CLS]`, `<s>`) is mapped to classes by the family's head."""

    task_type = "SEQ_CLS"

    def whole_head(self) -> dict[str, Array]:
        return {**head_tensors(self.tensors), **{name: self.tensors[name] for name in self.fresh}}

    @classmethod
    def fresh_head(cls, config: Any, present: Collection[str], seed: int, deviation: float = 0.02) -> dict[str, Array]:
        """Values of the head's tensors that are not `present`: as transformers makes them, weights from N(0,
        deviation^2) and biases 0. Every tensor has a stream of its own; host float64."""
        shapes, made = cls.tensor_shapes(config), {}
        inside = tuple(f"{cls.prefix}{part}" for part in cls.inside if part != "pooler.")
        for module in cls.head_linears(config):
            if module.startswith(inside):
                continue  # the encoder's own: what is missing of it is an error
            for name in (f"{module}.weight", f"{module}.bias"):
                if name in shapes and name not in present:
                    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
                    values = rng.standard_normal(shapes[name]) * cls.head_deviation(config, module, deviation)
                    made[name] = np.zeros(shapes[name]) if name.endswith(".bias") else values
        return made

    @classmethod
    def head_deviation(cls, config: Any, module: str, deviation: float) -> float:
        """How wide the fresh weights of a module of the head are; `deviation` is the model's `initializer_range`."""
        return deviation

    def head(self, first: Tensor) -> Tensor:
        """What `pooled` gives (batch, d_model) -> logits (batch, classes)."""
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
        input_ids : integer token ids
        attention_mask : 1 at tokens, 0 at padding
        labels : a class, or (batch,) classes
        token_type_ids : 0 for a first text, 1 for a second, where the family has them; 0 by default
        loss_divisor : what the summed loss is divided by; by default the number of rows, so the mean

        Raises
        ------
        DataError, ShapeError
            for ids outside the vocabulary, too long a sequence, shapes that disagree, or labels that are no classes.
        """
        self.refuse(decoder_input_ids=decoder_input_ids, decoder_attention_mask=decoder_attention_mask)
        hidden = self.encode(input_ids, attention_mask, token_type_ids)
        logits = self.head(self.pooled(hidden, attention_mask))
        return classified(logits, labels, loss_divisor, self.device.put, np.ndim(input_ids) == 1, hidden)

    def pooled(self, hidden: Tensor, attention_mask: Any) -> Tensor:
        """What the head reads (batch, d_model) of the last hidden states (batch, tokens, d_model): the first token's.

        attention_mask : as it was passed to the call
        """
        batch, tokens, d_model = hidden.shape
        return take_rows(reshape(hidden, (batch * tokens, d_model)), self.device.put(np.arange(batch) * tokens))
