"""A model that answers rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tlora_ref.data import Row, Tokenizer, encode_prompt, encode_rows, sample_form
from tlora_ref.errors import DataError
from tlora_ref.tasks.scoring import cut
from tlora_ref.transformer import Model


@dataclass(frozen=True)
class Answering:
    """A model that answers rows greedily.

    Attributes
    ----------
    template : how prompts are made of rows: a named template, or "chat" for the tokenizer's own
    max_new_tokens : longest response
    max_length : longest prompt and response together; None for the model's context
    """

    model: Model
    tokenizer: Tokenizer
    template: str = "plain"
    max_new_tokens: int = 64
    max_length: int | None = None

    @property
    def form(self) -> str:
        """What the model makes of a row: "causal", "seq2seq" or "classes"."""
        return sample_form(self.model)

    def text(self, row: Row, stop: Sequence[str] = ()) -> str:
        """The response to a row's prompt, without special tokens, up to the first stop or the end of the context."""
        prompt = encode_prompt(row, self.tokenizer, self.template, self.form)
        room = self.max_new_tokens
        if self.form == "causal" and self.model.context is not None:
            room = max(1, min(room, self.model.context - len(prompt)))
        ends = self.model.ends(self.tokenizer.eos_token_id)
        ids = self.model.generate(prompt, max_new_tokens=room, eos_token_id=ends)
        made = ids[1:] if self.form == "seq2seq" else ids[len(prompt) :]  # a decoder begins with its own start token
        if made[-1] in ends:  # it ends the text and is none, though its vocabulary may not call it special
            made = made[:-1]
        return cut(self.tokenizer.decode(made.tolist()), stop)

    def fits(self, row: Row) -> bool:
        """Whether the model can read a row's prompt and has room for a token of response."""
        limit = self.max_length or self.model.context
        return self.form != "classes" and (
            limit is None or len(encode_prompt(row, self.tokenizer, self.template, self.form)) < limit
        )

    def answerable(
        self, rows: Sequence[Row], too_long: Collection[str] = (), unlabelled: Collection[str] = ()
    ) -> list[Row]:
        """The rows that can be answered: of those that `encode_rows` left out, named by `Row.where`, the ones whose
        prompt fits where only the response was too long."""
        long, dropped = set(too_long), set(unlabelled)
        return [row for row in rows if (self.fits(row) if row.where in long else row.where not in dropped)]

    def samples(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """A sample a row; DataError if one has nothing to weigh (an empty option)."""
        names = getattr(self.model.config, "labels", ())
        found, report = encode_rows(rows, self.tokenizer, template=self.template, form=self.form, class_names=names)
        if len(found) < len(rows):
            raise DataError(f"a response cannot be weighed: {'; '.join(report.lines())}")
        return found
