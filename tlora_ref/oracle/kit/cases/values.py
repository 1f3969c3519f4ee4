"""What the cases are made of: small arrays whose entries every precision can hold, drawn so that they shrink well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision

Inputs = dict[str, Any]

#: Exponents of two for "huge" and "tiny": squares of such numbers, summed, stay inside the storage's range.
FAR = {"float64": 200, "float32": 40, "tf32": 40, "bfloat16": 40, "float16": 4}
#: Largest size of an axis: in cases drawn entry by entry, and in those drawn from a seed.
SMALL, LARGE = 5, 14


@dataclass
class Maker:
    """Draws sizes and arrays of one case, of a form of FORMS. Entries are eighths, or (`seeded`) normal and rounded.

    Eighths between -2 and 2 are exact in every precision, show ties and zeros often, and shrink to a case that can be
    read; normal numbers fill the mantissa.
    """

    draw: st.DrawFn
    precision: Precision
    form: str
    seeded: bool = False

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.draw(st.integers(0, 2**16))) if self.seeded else None

    def size(self, least: int = 1, most: int | None = None) -> int:
        """One axis."""
        limit = LARGE if self.seeded else SMALL
        return self.draw(st.integers(least, max(least, limit if most is None else most)))

    def sides(self, least: int = 1) -> tuple[int, int]:
        """Rows and columns, d_out and d_in say, in the form of this case."""
        limit = LARGE if self.seeded else SMALL
        small = self.size(least, limit - 1)
        return self.formed(small, self.size(small + 1, limit))

    def formed(self, small: int, large: int, form: str = "") -> tuple[int, int]:
        """Rows and columns of these sizes in a form, by default that of this case; a square is small."""
        return {"tall": (large, small), "wide": (small, large), "square": (small, small)}[form or self.form]

    def array(self, *shape: int) -> Array:
        """float64, exact in the storage."""
        if self._rng is not None:
            return self.precision.rounded(self._rng.normal(size=shape))
        eighths = self.draw(hnp.arrays(np.int8, shape, elements=st.integers(-16, 16)))
        return eighths / 8.0

    def positive(self, *shape: int) -> Array:
        """The same, never negative and nowhere zero."""
        return np.abs(self.array(*shape)) + 0.125 if self._rng is None else np.abs(self.array(*shape))

    def nonzero(self, *shape: int) -> Array:
        """The same with signs, nowhere zero."""
        values = self.array(*shape)
        return np.where(values == 0.0, 0.125, values)

    def orthonormal(self, rows: int, columns: int) -> Array:
        """Rows of length 1 at right angles, to within the storage: a signed choice of unit vectors, or general."""
        if self._rng is not None:
            Q = np.linalg.qr(self._rng.normal(size=(columns, rows)))[0]
            return self.precision.rounded(Q.T)
        chosen = self.draw(st.permutations(range(columns)))[:rows]
        return np.eye(columns)[list(chosen)]

    def far(self, sign: int, most: int = 200) -> float:
        """A huge (+1) or tiny (-1) power of two, of an exponent not above `most`."""
        return 2.0 ** (sign * min(most, FAR[self.precision.name]))

    def pick(self, *values: Any) -> Any:
        """One of these; shrinks to the first."""
        return self.draw(st.sampled_from(values))
