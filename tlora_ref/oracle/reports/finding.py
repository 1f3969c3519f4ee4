"""One finding of a comparison: one quantity of one stage and module."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.verdict import Verdict

PASS, FAIL, CASCADE, SKIP, NOTE = "pass", "fail", "cascade", "skip", "note"

OWN_INPUTS, GOLDEN = "own inputs", "golden"


@dataclass(frozen=True, repr=False)
class Finding:
    """One quantity of one stage.

    Attributes
    ----------
    against : "own inputs" (the stage, recomputed from what the candidate itself says went into it) or "golden"
    status : "pass", "fail", "cascade" (wrong only because an earlier stage is), "skip" (not there to be checked) or
        "note" (said, not judged)
    step : of training, where the quantity is one step's
    """

    stage: str
    against: str
    module: str | None
    verdict: Verdict | None
    status: str
    why: str = ""
    step: int | None = None

    def __repr__(self) -> str:
        return f"Finding ({self.line()})"

    @property
    def equation(self) -> str:
        return ORDER[self.stage][0]

    def line(self) -> str:
        """One line for a person."""
        where = self.module or "all modules"
        said = self.why if self.verdict is None else self.verdict.line()
        return f"{self.status}: {self.stage} ({self.equation}), {where}, against {self.against}: {said}"


def gathered(whys: Iterable[str]) -> list[str]:
    """What was said of several samples or steps said once: "samples 0 to 7: no loss recorded"."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for why in whys:
        found = re.fullmatch(r"(sample|step) (\d+): (.*)", why, re.DOTALL)
        numbers.setdefault((found[1], found[3]) if found else ("", why), set()).update([int(found[2])] if found else [])
    return [f"{what}{_span(of)}: {said}" if what else said for (what, said), of in sorted(numbers.items())]


def _span(numbers: set[int]) -> str:
    """What follows the word: " 3", "s 0 to 7" or "s 0, 2, 3"."""
    first, last = min(numbers), max(numbers)
    if len(numbers) == 1:
        return f" {first}"
    whole = len(numbers) == last - first + 1
    return f"s {first} to {last}" if whole else "s " + ", ".join(map(str, sorted(numbers)))
