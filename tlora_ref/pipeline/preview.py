"""Rows as a model will get them, before anything runs: tokens, what is scored, what is left out, the first loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlora_ref.checkpoint import load_peft, read_config
from tlora_ref.data import EncodedRow, EncodingReport, Row, Tokenizer, encode_row, token_texts
from tlora_ref.data.lengths import IGNORED
from tlora_ref.errors import DataError
from tlora_ref.pipeline.adapters import is_bare_encoder, labels_of
from tlora_ref.pipeline.samples import DataSource
from tlora_ref.training import TrainSettings, check_packing, step_batches
from tlora_ref.transformer import Model, classifier

#: How many tokens `RowPreview.seam` has on each side.
BESIDE = 3
#: Kinds of row of which one is shown, whatever place it has: too long, nothing scored, without an end.
KINDS: tuple[Callable[[EncodedRow], bool], ...] = (
    lambda row: row.too_long,
    lambda row: row.unlabelled,
    lambda row: row.used and not row.ended,
)


@dataclass(frozen=True)
class ShownToken:
    """A token: its id, the text that it adds, whether a model is scored on it."""

    id: int
    text: str
    scored: bool


@dataclass(frozen=True)
class RowPreview:
    """A row as a model gets it.

    Attributes
    ----------
    where : the row, as messages name it
    fate : "used", what was done to a long one, or "left out: " and why
    tokens : of `input_ids`; those of a row that is left out as too long are whole
    answer : of a sequence-to-sequence model, what its decoder is to say; else empty
    label : of a classifier, the class; else None
    ended : whether a token ends everything that is scored
    end : the last scored token that can end a turn, from which a model learns to stop; None where there is none, or no
        tokenizer to tell
    """

    where: str
    fate: str
    tokens: tuple[ShownToken, ...] = ()
    answer: tuple[ShownToken, ...] = ()
    label: str | None = None
    ended: bool = True
    end: ShownToken | None = None

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return sum(token.scored for token in (*self.tokens, *self.answer))

    @property
    def seam(self) -> tuple[tuple[ShownToken, ...], tuple[ShownToken, ...]] | None:
        """The last tokens before the first scored one, and the first scored ones; None where there is no such place."""
        at = self._first
        if self.answer or not at:
            return None
        return self.tokens[max(0, at - BESIDE) : at], self.tokens[at : at + BESIDE]

    @property
    def last(self) -> ShownToken | None:
        """The last scored token."""
        return next((token for token in reversed((*self.tokens, *self.answer)) if token.scored), None)

    def excerpt(self, limit: int) -> list[ShownToken | int]:
        """The tokens, or, of more than `limit`, those at both ends and about the seam, between them how many not."""
        count, third = len(self.tokens), limit // 3
        if count <= limit:
            return list(self.tokens)
        middle = min(max(self._first or 0, third + third // 2), count - third - third // 2)
        kept = [(0, third), (middle - third // 2, middle + third // 2), (count - third, count)]
        parts: list[ShownToken | int] = []
        before = 0
        for start, stop in kept:
            parts += [start - before] if start > before else []
            parts += self.tokens[max(start, before) : stop]
            before = stop
        return parts

    @property
    def _first(self) -> int | None:
        return next((at for at, token in enumerate(self.tokens) if token.scored), None)


@dataclass(frozen=True)
class Lengths:
    """Tokens a row, of the rows that are used: the fewest, the median, the most, and all; and how many are scored."""

    fewest: int
    median: float
    most: int
    total: int
    scored: int


@dataclass(frozen=True)
class Preview:
    """What training would see of a split.

    Attributes
    ----------
    rows : some rows: the first that are used, then the first of each kind that is not
    report : what became of all of them
    count : how many rows there are
    lengths : None where no row is used
    samples : all samples, as training takes them
    """

    rows: list[RowPreview]
    report: EncodingReport
    count: int
    lengths: Lengths | None
    samples: list[Mapping[str, Any]]


@dataclass(frozen=True)
class BatchLoss:
    """`loss` of one batch in nats a scored label, over `tokens` of them; `uniform`: of a model that knows nothing;
    `rows` and `longest`: the batch's shape, padding and all."""

    loss: float
    tokens: int
    uniform: float
    rows: int
    longest: int


def weightless_model(
    folder: str | Path, labels: Sequence[str] | None = None, adapter: str | Path | None = None
) -> Model:
    """A checkpoint's configuration as a model without tensors: it knows its context and what it makes of rows.

    labels : the classes of the head that a bare encoder gets
    adapter : where that brings the head, its classes
    """
    config, model_class = read_config(folder)
    if labels is None and adapter is not None and is_bare_encoder(folder):
        labels = labels_of(load_peft(adapter))
    if labels is not None:
        config, model_class = classifier(config, labels)
    return model_class(config, {})


def preview(
    source: DataSource, rows: Sequence[Row], model: Model, tokenizer: Tokenizer | None, *, show: int = 3
) -> Preview:
    """What `model` would be trained on, of which the first `show` rows are shown token by token.

    Parameters
    ----------
    model : may be without weights (`weightless_model`)
    tokenizer : None shows tokens by number; rows of text need one

    Raises
    ------
    DataError, ConfigError
        as `encode_rows`, for a row that training would refuse.
    """
    options = source.encoding(model)
    encoded = [encode_row(row, tokenizer, **options) for row in rows]
    report = EncodingReport(how=source.too_long, max_length=options["max_length"])
    for row in encoded:
        report.count(row)
    used = [row for row in encoded if row.used]
    first = (next((row for row in encoded if kind(row)), None) for kind in KINDS)
    chosen = list({row.where: row for row in (*used[:show], *first) if row is not None}.values())
    shown = [_shown(row, tokenizer, options) for row in chosen]
    samples: list[Mapping[str, Any]] = [part for row in used for part in row.parts]
    return Preview(shown, report, len(rows), _lengths(samples, options["form"]), samples)


def first_batch_loss(model: Model, samples: Sequence[Mapping[str, Any]], settings: TrainSettings) -> BatchLoss:
    """The loss of the batch that training with these settings begins with, packed if they say so.

    An adapter's B is 0 at first, so it is the first loss of `train` too.

    Raises
    ------
    DataError
        without samples.
    ConfigError
        for a model whose samples cannot be packed.
    """
    if not samples:
        raise DataError("no row can be used, so there is no batch")
    check_packing(model, samples, settings.packing)
    (batch, *_) = next(step_batches(samples, settings, 0, 1, getattr(model.config, "pad_token_id", None) or 0))
    output = model.watching([])(**batch)
    rows, tokens = batch["input_ids"].shape
    return BatchLoss(
        output.loss.item(), output.tokens, math.log(len(model.labels) or model.config.vocab_size), rows, tokens
    )


def _shown(row: EncodedRow, tokenizer: Tokenizer | None, options: Mapping[str, Any]) -> RowPreview:
    if row.sample is None:
        return RowPreview(row.where, "left out: its response is empty")
    fate = "used"
    if row.too_long:
        fate = _fate_of_long(row, options)
    elif row.unlabelled:
        fate = "left out: no token of it is scored"
    ids, labels, form = row.sample["input_ids"], row.sample["labels"], options["form"]
    tokens = _tokens(tokenizer, ids, _scored(row.sample) if form == "causal" else [False] * len(ids))
    if form == "classes":
        label = dict(enumerate(options["class_names"])).get(labels, str(labels))
        return RowPreview(row.where, fate, tokens, label=label)
    said = [label for label in labels if label != IGNORED] if form == "seq2seq" else []
    answer = _tokens(tokenizer, said, [True] * len(said))
    ends = frozenset[int]() if tokenizer is None else tokenizer.end_ids
    found = (token for token in reversed((*tokens, *answer)) if token.scored and token.id in ends)
    return RowPreview(row.where, fate, tokens, answer, None, row.ended, next(found, None))


def _fate_of_long(row: EncodedRow, options: Mapping[str, Any]) -> str:
    limit = f"{options['max_length']} tokens"
    if options["too_long"] == "skip":
        return f"left out: longer than {limit}"
    if not row.used:
        return f"left out: no token of it is scored in {limit}"
    if options["too_long"] == "chunk":
        return f"used in parts of at most {limit}: {len(row.parts)}"
    return f"cut to {limit}{', without its end token' if row.end_lost else ''}"


def _scored(sample: Mapping[str, Any]) -> list[bool]:
    """Which tokens of a causal sample are scored: the first is never predicted."""
    return [at > 0 and label != IGNORED for at, label in enumerate(sample["labels"])]


def _tokens(tokenizer: Tokenizer | None, ids: Sequence[int], scored: Sequence[bool]) -> tuple[ShownToken, ...]:
    texts = [f"{i} " for i in ids] if tokenizer is None else token_texts(tokenizer, ids)
    return tuple(ShownToken(*token) for token in zip(ids, texts, scored, strict=True))


def _lengths(samples: Sequence[Mapping[str, Any]], form: str) -> Lengths | None:
    if not samples:
        return None
    counts = [len(sample["input_ids"]) for sample in samples]
    per_sample = {
        "causal": lambda sample: sum(_scored(sample)),
        "seq2seq": lambda sample: sum(label != IGNORED for label in sample["labels"]),
        "classes": lambda sample: 1,
    }[form]
    return Lengths(min(counts), statistics.median(counts), max(counts), sum(counts), sum(map(per_sample, samples)))
