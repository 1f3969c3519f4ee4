"""Where the assistant's turns stand in a rendered conversation.

A template is a program: it may rewrite earlier turns when one is added (Qwen3 drops their reasoning), open the next
turn unasked, or begin a turn at inference with words that it does not write in training ("<think>"). What is trained is
the final rendering; a turn's place in it is found by rendering the conversation's beginnings and, where they are no
beginnings of the final text, by rendering it with other words in that turn and comparing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tlora_ref.data.chat_template import Job, Rendered
from tlora_ref.errors import DataError

Message = Mapping[str, Any]
Span = tuple[int, int]
#: Stands for words of a message: a character that no text holds (it is in Unicode's private area).
MARK = "\ue0ff"
#: What of a message says whose it is, and not what is said.
NAMED = frozenset(("role", "name", "tool_call_id"))


class Turns:
    """The assistant's turns of one conversation.

    Parameters
    ----------
    messages : the whole conversation
    outcomes : renders jobs; an error stands in place of what cannot be rendered
    closers : texts of the tokens that may end a turn
    where : the row, for errors
    """

    def __init__(
        self,
        messages: Sequence[Message],
        outcomes: Callable[[Sequence[Job]], list[Rendered | DataError]],
        closers: Sequence[str],
        where: str,
    ) -> None:
        self.messages, self.outcomes, self.closers, self.where = list(messages), outcomes, closers, where

    def spans(self, final: str, wanted: Sequence[int]) -> list[Span]:
        """The characters of `final` (the rendering) from which each wanted message's tokens are learnt.

        A turn begins after the text that opens it at inference, and ends with what the template writes to end it.
        Turns that the template leaves out have none.

        Raises
        ------
        DataError
            if a turn cannot be found.
        """
        found = []
        for i in wanted:
            span = self._span(final, i)
            if span is not None and span[0] < span[1]:
                found.append(span)
        return found

    def _span(self, final: str, i: int) -> Span | None:
        after = self.messages[: i + 1]
        follows = [*after, {"role": "user", "content": MARK}] if i + 1 == len(self.messages) else self.messages
        prompt, base, whole, longer = self._texts(
            [(self.messages[:i], True), (self.messages[:i], False), (after, False), (follows, False)]
        )
        begins = prompt is not None and final.startswith(prompt)
        ends = whole is not None and final.startswith(whole) and (longer is None or longer.startswith(whole))
        if begins and ends:
            assert prompt is not None and whole is not None
            return len(prompt), len(whole)
        place = self._place(self.messages, i, final)
        if place is None:
            return None
        start = len(prompt or "") if begins else self._start(final, i, place[0], prompt or "", base or "")
        if ends:
            return start, len(whole or "")
        tail = final[place[1] :] if follows is self.messages else self._tail(follows, i, longer)
        return start, place[1] + self._ending(self._tail(after, i, whole), tail)

    def _texts(self, jobs: Sequence[Job]) -> list[str | None]:
        """Renderings, None where a conversation cannot be rendered or is empty."""
        whole = [job for job in jobs if job[0]]
        found = iter(self.outcomes(whole))
        outcomes = [next(found) if job[0] else None for job in jobs]
        return [outcome.text if isinstance(outcome, Rendered) else None for outcome in outcomes]

    def _place(self, messages: Sequence[Message], i: int, text: str) -> Span | None:
        """Where message i's own words stand in `text`, which renders `messages`; None if it leaves them out."""
        marked = [*messages[:i], _marked(messages[i]), *messages[i + 1 :]]
        (other,) = self._texts([(marked, False)])
        if other == text:
            return None
        if other is None or MARK not in other:
            raise DataError(
                f"{self.where}: the words of messages[{i}] cannot be found in what the chat template makes of them"
            )
        start = _common(text, other)
        rest, others = text[start:], other[start:]
        return start, len(text) - _common(rest[::-1], others[::-1])

    def _start(self, final: str, i: int, place: int, prompt: str, base: str) -> int:
        """Where turn i begins if the prompt of inference is no beginning of the final text."""
        if not base or not prompt.startswith(base):
            return place
        opening = prompt[len(base) :]
        if final.startswith(base):  # the opening goes on otherwise ("<think>") from somewhere on
            return min(place, _common(prompt, final))
        try:
            before = self._place(self.messages, i - 1, final)
        except DataError:
            return place
        at = -1 if before is None else final.rfind(opening, before[1], place + len(opening))
        return at + len(opening) if opening and at >= 0 else place

    def _tail(self, messages: Sequence[Message], i: int, text: str | None) -> str:
        """What stands after message i's words in `text`, which renders `messages`."""
        place = None if text is None else self._place(messages, i, text)
        return "" if text is None or place is None else text[place[1] :]

    def _ending(self, last: str, followed: str) -> int:
        """How many characters end a turn: `last` stands after it at the end, `followed` where a message follows."""
        if not followed or followed.startswith(last):
            return len(last)
        common = last[: _common(last, followed)]  # the template opens the next turn unasked
        return min((common.find(text) + len(text) for text in self.closers if text in common), default=0)


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _marked(message: Message) -> Message:
    """A message with a mark for everything that it says."""
    said = {key: value if key in NAMED else _marks(value) for key, value in message.items()}
    return said if any(said.get(key) for key in ("content", "tool_calls")) else {**said, "content": MARK}


def _marks(value: Any) -> Any:
    if isinstance(value, str):
        return MARK
    if isinstance(value, Mapping):
        return {key: inner if key in ("type", "id") else _marks(inner) for key, inner in value.items()}
    return [_marks(item) for item in value] if isinstance(value, list) else value
