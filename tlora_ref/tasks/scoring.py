"""What an answer says: the last number, the option that is named, the code before a stop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

#: A number that is not the tail of a word or of another number: 1,234.50, $18, -3; of 5-3 the 5 and the 3.
NUMBER = re.compile(r"(?<![\w.])(-?)\$?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?")


def final_number(text: str) -> Fraction | None:
    """The number after the last "####", or the last number of all; None where there is none. 42 and 42.0 are equal."""
    found = NUMBER.findall(text.rpartition("####")[2]) or NUMBER.findall(text)
    if not found:
        return None
    sign, whole, decimals = found[0] if "####" in text else found[-1]
    return Fraction(sign + whole.replace(",", "") + decimals)


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """Which option a text names first, as a whole word and in any case; None if it names none."""
    found = []
    for number, option in enumerate(options):
        match = re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text, flags=re.IGNORECASE)
        if match is not None:
            found.append((match.start(), -len(option), number))  # of two at one place, the longer
    return min(found)[2] if found else None


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of the stops."""
    return text[: min((at for at in map(text.find, stops) if at >= 0), default=len(text))]
