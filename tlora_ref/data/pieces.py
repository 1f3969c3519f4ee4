"""The text that each token adds, for showing tokens one by one and for printing text as it is made."""

from __future__ import annotations

from collections.abc import Sequence

from tlora_ref.data.tokenizer import Tokenizer

#: What a decoder puts for bytes that are no whole character yet.
HALF = "\N{REPLACEMENT CHARACTER}"


class Pieces:
    """Tokens to text, one at a time: the pieces joined are the text of the tokens together.

    A token is decoded beside those of the last piece, because a tokenizer may write it otherwise at the beginning of a
    text. Bytes that are no whole character wait for the token that completes it.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self.tokenizer, self.skip = tokenizer, skip_special_tokens
        self._last: list[int] = []  # tokens whose text is given, enough to go on from
        self._waiting: list[int] = []

    def take(self, token: int) -> str:
        """The text that a token adds."""
        self._waiting.append(token)
        text = self._text()
        if not text or text.endswith(HALF):
            return ""
        return self._given(text)

    def end(self) -> str:
        """What still waits: half a character, as the decoder writes it."""
        return self._given(self._text())

    def _text(self) -> str:
        before = self.tokenizer.decode(self._last, skip_special_tokens=self.skip)
        return self.tokenizer.decode(self._last + self._waiting, skip_special_tokens=self.skip)[len(before) :]

    def _given(self, text: str) -> str:
        self._last, self._waiting = self._waiting if text else self._last, []
        return text


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each of `ids` adds, special tokens by their names; a character of several tokens is at the last."""
    pieces = Pieces(tokenizer, skip_special_tokens=False)
    texts = [pieces.take(token) for token in ids]
    if texts:
        texts[-1] += pieces.end()
    return texts
