"""Where a text ends that is to stop at another."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models

from tlora_ref.data import StopStrings, Tokenizer
from tlora_ref.errors import ConfigError

WORDS = ("st", "op", "stop", "opera", "las", "topper", "s", "to", "pped", "at", "x")
IDS = {word: i for i, word in enumerate(WORDS)}


@pytest.fixture
def stops() -> StopStrings:
    backend = tokenizers.Tokenizer(models.WordLevel(IDS, unk_token="x"))
    backend.decoder = decoders.Fuse()  # words side by side
    return StopStrings(Tokenizer(backend, {}), ["stop", "atx"])


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (("st", "op"), True),
        (("stop",), True),
        (("st", "opera"), True),
        (("las", "topper"), True),
        (("s", "to", "pped"), True),
        (("x", "at", "x"), True),
        (("stop", "at"), False),  # it was complete before the last token
        (("st", "op", "at"), False),
        (("s", "op"), False),
        (("x",) * 99 + ("st", "op"), True),
        (("st", "op", "st", "op"), True),
        ((), False),
    ],
)
def test_a_stop_ends_inside_the_last_token(stops: StopStrings, words: tuple[str, ...], ends: bool) -> None:
    assert stops([IDS[word] for word in words]) is ends


def test_what_is_shown_of_a_text(stops: StopStrings) -> None:
    assert stops.cut("x stop at atx stop") == "x " and stops.cut("atx") == "" and stops.cut("sto") == "sto"
    assert [stops.held(text) for text in ("", "a", "xst", "sto", "stopx", "at", "t")] == [0, 1, 2, 3, 0, 2, 0]


def test_an_empty_stop_is_refused(stops: StopStrings) -> None:
    with pytest.raises(ConfigError, match="empty"):
        StopStrings(stops.tokenizer, ["a", ""])
