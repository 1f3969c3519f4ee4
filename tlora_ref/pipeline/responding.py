"""Prompts of tokens to responses of text: streamed, stopped, many at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlora_ref.data import Pieces, StopStrings, Tokenizer, sample_form
from tlora_ref.errors import ConfigError, DataError
from tlora_ref.transformer import Model
from tlora_ref.transformer.cache import KeyValueCache

OnText = Callable[[str], None]
Ids = list[int]


@dataclass(frozen=True)
class Response:
    """What a model made of a prompt.

    Attributes
    ----------
    text : without special tokens, up to a stop string
    tokens : all that were made, with the one that ended it
    finish : "end" (an end token), "stop" (a stop string) or "length" (no room for more)
    """

    text: str
    tokens: Ids
    finish: str


@dataclass
class Responder:
    """A model that responds to prompts.

    Attributes
    ----------
    max_new_tokens : longest response
    stops : texts that end a response and are no part of it
    sampling : temperature, top_k, top_p, min_p, repetition_penalty, as `Model.generate` takes them; empty for greedy
    seed : of the draws for the first prompt; the second has the next, and so on
    within_context : responses end where the model's context does
    """

    model: Model
    tokenizer: Tokenizer
    max_new_tokens: int = 64
    stops: Sequence[str] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    within_context: bool = True

    def __post_init__(self) -> None:
        self.stop = StopStrings(self.tokenizer, self.stops) if self.stops else None
        self.ends = self.model.ends(self.tokenizer.eos_token_id)
        self.decodes_alone = sample_form(self.model) == "seq2seq"  # the decoder does not begin with the prompt

    def respond(
        self, prompt: Ids, on_text: OnText | None = None, *, number: int = 0, cache: KeyValueCache | None = None
    ) -> Response:
        """The response to one prompt; `on_text` is given its text as it is made. `number` chooses the seed.

        cache : keys and values of the last prompt and its response, of which this prompt's beginning is taken; not for
            models whose decoder does not begin with the prompt
        """
        stream = _Stream(self, prompt, on_text)
        options = self._options(self.room(prompt), self.seed + number)
        if cache is not None:
            options["cache"] = cache
        made = self.model.generate(prompt, on_token=stream.take, **options)
        response = self._response(prompt, made.tolist()[1 if self.decodes_alone else len(prompt) :])
        stream.end(response.text)
        return response

    def respond_to_all(
        self, prompts: Sequence[Ids], *, batch_size: int = 1, progress: Callable[[int, int], None] | None = None
    ) -> list[Response]:
        """The responses to many prompts, in their order. Batches change what is computed by rounding alone."""
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: expected 1 or more")
        found: list[Response] = []
        while len(found) < len(prompts):
            found += self._batch(prompts, len(found), batch_size)
            if progress is not None:
                progress(len(found), len(prompts))
        return found

    def room(self, prompt: Ids, where: str = "the prompt") -> int:
        """How many tokens a response may have; DataError, which names `where`, for a prompt that leaves no room."""
        context = self.model.context
        if self.decodes_alone or context is None or not self.within_context:
            return self.max_new_tokens
        if len(prompt) >= context:
            raise DataError(
                f"{where}: {len(prompt)} tokens leave no room in the model's context of {context}: shorten it"
            )
        return min(self.max_new_tokens, context - len(prompt))

    def _batch(self, prompts: Sequence[Ids], start: int, size: int) -> list[Response]:
        """The responses to the next prompts that can be computed together: they have as much room."""
        room = self.room(prompts[start])
        stop = start + 1
        while stop < min(start + size, len(prompts)) and self.room(prompts[stop]) == room:
            stop += 1
        batch = prompts[start:stop]
        if len(batch) == 1:
            return [self.respond(batch[0], number=start)]
        longest = max(map(len, batch))
        ids = [[0] * (longest - len(prompt)) + prompt for prompt in batch]
        keep = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch]
        seeds = [self.seed + number for number in range(start, stop)]
        made = self.model.generate(ids, keep, **self._options(room, seeds))[:, 1 if self.decodes_alone else longest :]
        rows = zip(batch, made.tolist(), strict=True)
        return [self._response(prompt, self._whole(prompt, row)) for prompt, row in rows]

    def _options(self, room: int, seed: int | list[int]) -> dict[str, Any]:
        options = {"max_new_tokens": room, "seed": seed, "stop": self.stop, "eos_token_id": self.ends or -1}
        return {**options, **self.sampling}

    def _whole(self, prompt: Ids, row: Ids) -> Ids:
        """A row of a batch up to the token that ended it."""
        lengths = range(1, len(row) + 1)
        return row[: next((n for n in lengths if self._finish(prompt, row[:n]) != "length"), len(row))]

    def _finish(self, prompt: Ids, made: Ids) -> str:
        if made[-1] in self.ends:
            return "end"
        before = [] if self.decodes_alone else prompt
        return "stop" if self.stop is not None and self.stop([*before, *made]) else "length"

    def _response(self, prompt: Ids, made: Ids) -> Response:
        finish = self._finish(prompt, made)
        text = self.tokenizer.decode(made[:-1] if finish == "end" else made)
        if finish == "stop" and self.stop is not None:
            text = self._cut(self.stop, made, text)
        return Response(text, made, finish)

    def _cut(self, stop: StopStrings, made: Ids, text: str) -> str:
        """The text before a stop, which may be part of the text, have special tokens in it, or begin in the prompt."""
        if stop.cut(text) != text:
            return stop.cut(text)
        named = self.tokenizer.decode(made, skip_special_tokens=False)
        return self.tokenizer.decode(made[:-1]) if stop.cut(named) != named else ""


def finishes(responses: Sequence[Response]) -> dict[str, int]:
    """How many responses ended in which way."""
    return dict(Counter(response.finish for response in responses))


class _Stream:
    """Gives text as tokens come, holding back half characters and what may be the beginning of a stop."""

    def __init__(self, responder: Responder, prompt: Ids, on_text: OnText | None) -> None:
        self.responder, self.on_text = responder, on_text
        self.pieces = Pieces(responder.tokenizer)
        self.from_prompt = Pieces(responder.tokenizer)  # a stop may begin in the prompt
        self.whole = "" if responder.decodes_alone else "".join(map(self.from_prompt.take, prompt))
        self.place = len(self.whole)
        self.text, self.given = "", 0

    def take(self, new: Ids) -> None:
        """The token of one step."""
        if self.on_text is None or new[0] in self.responder.ends:
            return
        self.text += self.pieces.take(new[0])
        self.whole += self.from_prompt.take(new[0])
        stop = self.responder.stop
        if stop is not None and stop.ends_after(self.whole, self.place):
            return  # the end will say how much of it counts
        self._give(self.text, len(self.text) - (0 if stop is None else stop.held(self.whole)))

    def end(self, whole: str) -> None:
        """What was held back of the whole text."""
        self._give(whole, len(whole))

    def _give(self, text: str, upto: int) -> None:
        if self.on_text is not None and upto > self.given:
            self.on_text(text[self.given : upto])
            self.given = upto
