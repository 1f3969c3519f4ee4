"""The two sides of a comparison: which of them a quantity is taken from, on traces of a few numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import GOLDEN, OWN_INPUTS
from tlora_ref.oracle.stages.sides import Sides, named
from tlora_ref.oracle.verdict import Verdict


class Held(dict[str, Any]):
    """Of a trace of two modules, what it holds."""

    has, get = dict.__contains__, dict.__getitem__
    shapes: ClassVar = {"m": (2, 3), "n": (2, 3)}

    def __init__(self, held: dict[str, Any], profile: str) -> None:
        super().__init__({name: np.asarray(x, np.float64) for name, x in held.items()})
        self.manifest = SimpleNamespace(
            train={}, noise={}, samples=2, resolved=lambda: PROFILES[profile], r_init=2, alpha=4.0
        )

    def not_finite(self) -> dict[str, Any]:
        return {name: ((), x) for name, x in self.items() if not np.isfinite(x).all()}

    def without(self, names: Collection[str]) -> Any:
        return Held({name: x for name, x in self.items() if name not in names}, "paper")

    def modules(self, quantity: str) -> list[str]:
        return [m for m in self.shapes if f"{quantity}/{m}" in self]


def sides(
    golden: dict[str, Any],
    candidate: dict[str, Any],
    precision: str = "float64",
    profile: str = "paper",
    **factors: float,
) -> Sides:
    gold: Any = Held(golden, profile)
    mine: Any = Held(candidate, profile)
    return Sides(gold, mine, None, Precision.of(precision), factors)


def test_what_is_not_finite_is_as_good_as_not_recorded() -> None:
    found = sides({}, {"A/m": [np.nan], "A/n": [1.0]})
    assert list(found.not_finite) == ["A/m"] and list(found.candidate) == ["A/n"]
    whole = sides({}, {"A/n": [1.0]})
    assert not whole.not_finite and list(whole.candidate) == ["A/n"]


def test_a_profile_trains_B_or_both() -> None:
    frozen, trained = sides({}, {}), sides({}, {})
    frozen.switches, trained.switches = (replace(PROFILES["paper"], freeze_A=frozen) for frozen in (True, False))
    assert (frozen.letters, trained.letters) == ("B", "BA")


def test_arrays_show_what_they_are_kept_in() -> None:
    low, fine = np.array([1.5, 2.0]), np.array([1.5, 1.0 + 2.0**-20])
    for arrays, name in (
        ([low], "bfloat16"),
        ([fine], "float32"),
        ([fine, low], "bfloat16"),
        ([fine, fine], "float32"),
    ):
        assert sides({}, {}, "bfloat16").shown(arrays).name == name
    for own in ("float32", "float64", "tf32"):
        assert sides({}, {}, own).shown([fine]).name == own and sides({}, {}, own).shown([low]).name == own


@pytest.mark.parametrize(
    ("factor", "passed", "allowed"), [(1.0, False, 2.0), (4.0, True, 8.0), (3.0, True, 6.0), (0.5, False, 1.0)]
)
def test_a_factor_widens_what_is_allowed_and_what_is_seen(factor: float, passed: bool, allowed: float) -> None:
    verdict = Verdict("A", "entries", False, 6.0, 2.0, detects=0.25)
    found = sides({}, {}, A=factor).finding("A", GOLDEN, "m", verdict)
    assert found.verdict is not None and (found.against, found.module) == (GOLDEN, "m")
    assert (found.verdict.passed, found.verdict.allowed, found.verdict.detects) == (passed, allowed, 0.25 * factor)
    exact = sides({}, {}, A=factor).own("A", None, Verdict("A", "entries", True, 0.0, 0.0))
    assert exact.verdict is not None and exact.verdict.detects is None and exact.against == OWN_INPUTS
    assert sides({}, {}, merge=9.0).finding("A", GOLDEN, "m", verdict).verdict == verdict


def test_modules_that_have_a_rank() -> None:
    golden = {"rank/m": 1, "rank/n": 0}
    assert sides(golden, {}).adapted == ["m"] and sides({}, {}).adapted == []
    assert sides(golden, {"rank/m": 0}).adapted == ["m"]  # not all of its own
    assert sides(golden, {"rank/m": 0, "rank/n": 2}).adapted == ["n"]
    assert sides({"rank/n": 3}, {}).adapted == ["n"]


def test_a_rank_without_a_matrix_is_wrong_where_others_have_one() -> None:
    ranks = {"rank/m": 2, "rank/n": 1}
    said = sides({}, ranks | {"A/n": [[1.0]]}).missing("A", "A", "m")
    assert (
        said is not None and said.verdict is not None and said.verdict.cause == "the rank is 2, and there is no matrix"
    )
    for held in (ranks, ranks | {"A/m": [[1.0]]}, {"rank/m": 0, "A/n": [[1.0]]}, {"A/n": [[1.0]]}):
        assert sides({}, held).missing("A", "A", "m") is None


def test_what_every_sample_has() -> None:
    both = {"sample/0/input/m": [1.0], "sample/1/input/m": [2.0]}
    found = sides({}, both)
    assert [x.tolist() for x in found.of_every_sample(found.candidate, "input", "m") or []] == [[1.0], [2.0]]
    assert found.of_every_sample(found.candidate, "input", "n") is None
    part = sides({}, {"sample/1/input/m": [2.0]})
    assert part.of_every_sample(part.candidate, "input", "m") is None
    part.golden.manifest.samples = 0
    assert part.of_every_sample(part.candidate, "input", "m") is None


@pytest.mark.parametrize(
    ("own", "taken"),
    [
        ({"m": 1.0, "n": 3.0}, True),
        ({"m": 0.0, "n": 0.25}, True),
        ({"m": 0.0, "n": 0.0}, False),
        ({"m": -0.25, "n": 3.0}, False),
        ({"m": 1.0}, False),
        ({}, False),
    ],
)
def test_scores_are_the_candidate_s_where_they_have_shares(own: dict[str, float], taken: bool) -> None:
    golden = {"sensitivity/m": 5.0, "sensitivity/n": 7.0}
    S, source = sides(golden, {f"sensitivity/{m}": x for m, x in own.items()}).scores()
    assert (S.tolist(), source) == ((list(own.values()), OWN_INPUTS) if taken else ([5.0, 7.0], GOLDEN))


def test_A_as_a_step_found_it() -> None:
    held = {"A/m": [[1.0]], "train/1/A/m": [[2.0]], "train/2/A/m": [[3.0]]}
    frozen, trained = sides({}, held), sides({}, held)
    trained.switches = replace(PROFILES["paper"], freeze_A=False)

    def found(of: Sides, step: int) -> float | None:
        A = of.A_before(step, "m")
        return None if A is None else float(A.item())

    for of in (frozen, trained):
        assert [found(of, t) for t in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert (found(frozen, 4), found(trained, 4)) == (1.0, None)  # not recorded: a frozen A is what it was
    assert frozen.A_before(1, "n") is None
    zero = sides({}, held | {"train/0/A/m": [[9.0]]})
    assert found(zero, 1) == 1.0


def test_the_nearest_array_of_its_shape_is_that_of_another_module() -> None:
    found = sides({"C/m": [1.0, 1.0], "C/n": [5.0, 5.0]}, {})
    ((text, made),) = found.of_another("C", "m", np.array([4.0, 4.0]))
    assert text == "it is that of another module" and made().tolist() == [5.0, 5.0]
    assert list(found.of_another("C", "m", np.zeros(3))) == [] and list(found.of_another("D", "m", np.zeros(2))) == []


def test_the_module_that_is_wrong_is_named() -> None:
    assert named(["m", "n"], Verdict("ranks", "ranks", False, index=(1, 0))) == "n"
    assert named(["m", "n"], Verdict("ranks", "ranks", False)) is None
    assert named(["m", "n"], Verdict("ranks", "ranks", True, index=(1,))) is None


def test_weights_are_the_model_s_or_golden_s() -> None:
    held = sides({"weight/m": [[1.0, 2.0]]}, {})
    assert held.weight("n") is None
    W = held.weight("m")
    assert W is not None and W.tolist() == [[1.0, 2.0]]
    held.model = SimpleNamespace(weight=lambda m: np.array([[7]], np.float32))  # type: ignore[assignment]
    W = held.weight("m")
    assert W is not None and (W.tolist(), W.dtype) == ([[7.0]], np.float64)
