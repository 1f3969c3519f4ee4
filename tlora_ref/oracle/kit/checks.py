"""The checks of the kit: an identifier, what it is for, and how its cases are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from tlora_ref.oracle.kit.cases import (
    adamw_step,
    adapted,
    allocate,
    covariance,
    initialize_a,
    loss,
    sensitivity,
    train,
)
from tlora_ref.oracle.kit.cases.values import Inputs, Maker
from tlora_ref.oracle.precision import Precision


@dataclass(frozen=True)
class Check:
    """One property of one stage.

    Attributes
    ----------
    id : "<stage>/<what>"; expected failures are named by it
    note : what it is for, in a sentence
    make : draws the inputs of one case
    seeded : entries are normal numbers, not eighths
    refuses : the only right answer is to raise
    """

    id: str
    note: str
    make: Callable[[Maker], Inputs]
    seeded: bool = False
    refuses: bool = False

    @property
    def stage(self) -> str:
        return self.id.partition("/")[0]

    def cases(self, precision: Precision, form: str) -> st.SearchStrategy[Inputs]:
        """Inputs of the stage in one of FORMS: float64 arrays, every entry exact in the precision's storage."""

        @st.composite
        def strategy(draw: st.DrawFn) -> Inputs:
            return self.make(Maker(draw, precision, form, self.seeded))

        return strategy()


def _checks() -> dict[str, Check]:
    found: dict[str, Check] = {}
    for stage in (loss, covariance, sensitivity, allocate, initialize_a, adapted, adamw_step, train):
        for id, note, make in stage.CASES:
            found[id] = Check(id, note, make, seeded=id.endswith("/typical"), refuses=id in stage.REFUSED)
    return found


#: Every check by its identifier, in the order of a run.
CHECKS: dict[str, Check] = _checks()
