"""What is said about one output of one stage."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from tlora_ref.oracle.causes import Faint

#: What explains a wrong run where no stage's findings do: it is another run; it is wrong as float64 alone.
OTHER_SAMPLES = "its samples are others than the golden run's, by their digests"
AS_FLOAT32 = "right as float32 (--dtype float32): a part of the candidate is computed or stored in float32"


class Wrong(AssertionError):
    """What is not right: what Hypothesis shrinks, and what a pytest run shows."""


@dataclass(frozen=True, repr=False)
class Verdict:
    """One checked property of one stage's output; `passed` is error <= allowed.

    Attributes
    ----------
    stage : a key of `implementation.STAGES`
    what : the property: "entries", "shape", "finite", "orthonormal rows", "row space", "rows", "energy", "ranks", ...
    error, allowed : the worst deviation and its bound, at `index`, where `got` and `expected` stand
    cause : what it looks like, where a known slip explains it
    fits : every slip that explains it, with the share of the error that it leaves; `cause` is the first of them that
        is not faint
    note : what a reader should know of how it was judged
    detects : the smallest relative error of all of it that would be wrong (of directions: the sine of an angle)
    """

    stage: str
    what: str
    passed: bool
    error: float = 0.0
    allowed: float = 0.0
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    cause: str | None = None
    note: str = ""
    fits: tuple[tuple[str, float], ...] = ()
    detects: float | None = None

    def __repr__(self) -> str:
        return f"Verdict ({'right' if self.passed else 'wrong'}): {self.stage}, {self.line()}"

    def blamed(self, fits: Iterable[tuple[str, float]]) -> Verdict:
        """The same verdict with these slips as what explains it."""
        found = tuple(fits)
        return replace(self, fits=found, cause=next((text for text, _ in found if not isinstance(text, Faint)), None))

    @property
    def explained_by(self) -> dict[str, float]:
        """{slip: share of the error that it leaves}; a cause that is no slip (a wrong shape) leaves nothing."""
        return dict(self.fits) or ({} if self.cause is None else {self.cause: 0.0})

    def line(self) -> str:
        """One line for a person."""
        where = "" if self.index is None else f" at {list(self.index)}"
        values = "" if self.got is None else f": got {self.got:.9g}, expected {self.expected:.9g}"
        said = f"{self.what}{where}{values} (off by {self.error:.3g}, allowed {self.allowed:.3g})"
        return "; ".join([said, *filter(None, (self.cause, self.note))])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
