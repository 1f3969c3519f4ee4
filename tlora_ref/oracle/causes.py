"""What several failing findings have in common. A cause is a claim: it explains them all, or says how many.

A single finding is often explained by several slips (with two samples, C / (N - 1) is C summed), so none is read off
one of them: every slip that fits a finding has a vote, and the one that explains most is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

#: Causes that explain less than this share of the findings together are not named.
ENOUGH = 0.5
#: Nor those that explain less than this share of the typical ones.
TYPICAL = 0.4
#: Nor is a further cause, that of a second mistake, which explains less than this share.
FURTHER = 0.15
#: So many findings that are explained faintly are a claim together.
AGREEING = 3
#: Slips that nothing tells apart here are named together, so many at most.
ALIKE = 3


class Fitted(str):
    """A cause with a number that was fitted to a finding: a setting, which is the same in all findings."""

    __slots__ = ()


class Factor(Fitted):
    """That all of it is so many times what it should be: said only where no other cause is known."""

    __slots__ = ()


class Faint(str):
    """A cause of a number whose error is not far beyond what noise may do: other slips come as near by chance."""

    __slots__ = ()


def explaining(fits: Sequence[Mapping[str, float]], typical: Collection[int] = ()) -> list[tuple[str, int]]:
    """[(cause, how many findings it explains)], the most telling first; empty where nothing explains enough.

    fits : of every failing finding, {slip that fits it: the share of the finding's error that it leaves}
    typical : as `claim` has it
    """
    fits = _agreeing(fits)
    named: list[tuple[str, int]] = []
    left = list(range(len(fits)))
    while left:
        votes: dict[str, list[float]] = {}
        firm = {str(text) for i in left for text in fits[i] if not isinstance(text, Faint)}
        for i in left:
            for text, rest in fits[i].items():
                votes.setdefault(text, []).append(rest)
        votes = {text: rests for text, rests in votes.items() if text in firm or len(rests) >= AGREEING}
        # of slips that explain as many, the one that leaves least; below a hundredth is rounding
        rank = {text: (len(rests), -round(sum(rests) / len(rests), 2)) for text, rests in votes.items()}
        best = max(rank, key=lambda text: rank[text], default=None)
        if best is None or (named and len(votes[best]) < FURTHER * len(fits)):
            break
        alike = [text for text in rank if rank[text] == rank[best]][:ALIKE]
        others = f" (or, here the same: {'; '.join(alike[1:])})" if alike[1:] else ""
        named.append((type(best)(alike[0] + others), sum(best in fit for fit in fits)))
        left = [i for i in left if best not in fits[i]]
    told = set(range(len(fits))) - set(left)
    by_chance = len(told & set(typical)) < TYPICAL * len(typical) and not any(
        isinstance(text, Fitted) for text, _ in named
    )
    return [] if by_chance or len(told) < ENOUGH * len(fits) else named


def _agreeing(fits: Sequence[Mapping[str, float]]) -> list[Mapping[str, float]]:
    """Without the fitted numbers that most findings contradict by another (a factor: half of them): what changes from
    step to step is none."""
    counts = Counter(text for fit in fits for text in fit)
    forms = Counter(form for fit in fits for form in {_form(text) for text in fit if isinstance(text, Fitted)})

    def agrees(text: str) -> bool:
        others = forms[_form(text)] - counts[text]
        return (
            not isinstance(text, Fitted) or counts[text] > others or (counts[text] == others and type(text) is Fitted)
        )

    return [{text: rest for text, rest in fit.items() if agrees(text)} for fit in fits]


def _form(text: str) -> str:
    """A text without its numbers."""
    return re.sub(r"\d[\d.e+-]*", "#", text)


def claim(fits: Sequence[Mapping[str, float]], typical: Collection[int] = ()) -> str | None:
    """The causes as text: "C is centred", or "C is centred (5 of 9); the sign is flipped (4 of 9)".

    typical : which of the findings (from 0) are no special cases. In the small and the awkward ones many slips look
        alike: causes that explain less than TYPICAL of the others are none, unless a number was fitted and agrees.
    """
    return _said(known(fits), typical) or _said(fits, typical)


def known(fits: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The same without the factors."""
    return [{text: rest for text, rest in fit.items() if not isinstance(text, Factor)} for fit in fits]


def _said(fits: Sequence[Mapping[str, float]], typical: Collection[int]) -> str | None:
    many = len(fits)
    said = [text if count == many else f"{text} ({count} of {many})" for text, count in explaining(fits, typical)]
    return "; ".join(said) or None
