"""Texts that end what is generated."""

from __future__ import annotations

from collections.abc import Sequence

from tlora_ref.data.pieces import HALF
from tlora_ref.data.tokenizer import Tokenizer
from tlora_ref.errors import ConfigError

#: Tokens that one character may take, and some more that are no text.
TOKENS_A_CHARACTER, SPARE = 4, 8


class StopStrings:
    """Whether a token completes one of several texts, as transformers' `stop_strings` has it: the text may begin in any
    token before (the prompt's too) and end inside this one. Special tokens count by their names.

    It is what `generate` takes as `stop`. ConfigError for an empty text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ConfigError("a stop string is empty: it would end every text before it begins")
        self.tokenizer, self.stops = tokenizer, tuple(stops)
        self._window = SPARE + TOKENS_A_CHARACTER * max(map(len, self.stops), default=0)

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` completes a stop."""
        tail = ids[-self._window :]
        before = self.tokenizer.decode(tail[:-1], skip_special_tokens=False).rstrip(HALF)
        text = self.tokenizer.decode(tail, skip_special_tokens=False)
        return self.ends_after(text, len(before))

    def ends_after(self, text: str, place: int) -> bool:
        """Whether a stop in `text` ends after its first `place` characters."""
        return any(text.find(stop, max(0, place - len(stop) + 1)) >= 0 for stop in self.stops)

    def cut(self, text: str) -> str:
        """`text` up to the first stop in it."""
        return text[: min((at for at in map(text.find, self.stops) if at >= 0), default=len(text))]

    def held(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop."""
        longest = max(map(len, self.stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(text[-n:]) for stop in self.stops)), 0)
