"""What becomes of a sample that is longer than the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tlora_ref.errors import ConfigError, did_you_mean

#: Labels with this value are not scored.
IGNORED = -100
#: A row that is too long is left out; cut at its end; or cut into parts.
TOO_LONG = ("skip", "truncate", "chunk")
#: What others call them.
TOO_LONG_ELSEWHERE = {"drop": "skip", "discard": "skip", "filter": "skip", "cut": "truncate", "truncation": "truncate"}
TOO_LONG_ELSEWHERE |= dict.fromkeys(("split", "wrap", "wrapped", "window", "windows"), "chunk")

Sample = dict[str, Any]


def check_too_long(too_long: str, form: str = "causal") -> None:
    """ConfigError for something else than TOO_LONG, or for parts of what is no single sequence."""
    if too_long not in TOO_LONG:
        hint = did_you_mean(too_long, TOO_LONG, TOO_LONG_ELSEWHERE)
        raise ConfigError(f"too_long is {too_long!r}, expected {', '.join(TOO_LONG[:-1])} or {TOO_LONG[-1]}{hint}")
    if too_long == "chunk" and form != "causal":
        what = "an answer to a prompt" if form == "seq2seq" else "one class"
        raise ConfigError(
            f'too_long is "chunk", but this model is scored on {what} and not on a sequence that could be cut into '
            "parts: skip or truncate (--too-long)"
        )


def truncated(sample: Mapping[str, Any], max_length: int, last: Sequence[int] = ()) -> Sample:
    """The first `max_length` entries of everything; of a prompt that ends with the tokens `last`, these are kept."""
    cut = {name: value[:max_length] if isinstance(value, list) else value for name, value in sample.items()}
    ids, end = sample["input_ids"], list(last)
    if end and len(ids) > max_length > len(end) and ids[-len(end) :] == end:
        cut["input_ids"] = [*ids[: max_length - len(end)], *end]
    return cut


def chunks(sample: Mapping[str, Any], max_length: int) -> list[Sample]:
    """A causal sample in parts of `max_length` tokens, each but the first beginning with the last token before it.

    So every scored token is scored in one part, and has a token before it there. Parts without a scored token are left
    out.
    """
    length = len(sample["input_ids"])
    found = []
    for start in range(0, length - 1, max_length - 1):
        part = {
            name: value[start : start + max_length] if isinstance(value, list) else value
            for name, value in sample.items()
        }
        if start:
            part["labels"] = [IGNORED, *part["labels"][1:]]  # scored in the part before
        if any(label != IGNORED for label in part["labels"][1:]):
            found.append(part)
    return found
