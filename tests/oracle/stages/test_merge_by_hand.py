"""How a merged weight is held, by its share of the update and by golden's run: matrices of one and two entries."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.oracle.stages.test_rows import Held
from tests.oracle.stages.test_whole_run_by_hand import judging
from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.merge import _frozen_weight, findings, judge_merge, judge_merge_by_golden, judge_share
from tlora_ref.oracle.stages.rows import Rows
from tlora_ref.oracle.stages.whole_run import Trained

DOUBLE, LOW = Precision.of("float64"), Precision.of("bfloat16")


def test_the_share_of_all_updates_is_held_to_eight_deviations_of_a_walk() -> None:
    """W' of two modules: the first on bfloat16's grid, where W' is rounded too, the second off it."""
    first = (np.array([[1.5, 2.5]]), np.array([[1.0 + 2.0**-9, 2.0]]), np.array([[0.5 + 2.0**-9, 0.25]]))
    second = (np.array([[-1.0 - 2.0**-12]]), np.array([[-3.0]]), np.array([[1.0]]))
    # W is stored as 1 and 2, W' right as 1.5 and 2.25: 0.25 too much, times an update of 0.25; and -1 - 2^-12 for -2
    walk, steps = 0.0625 + (1.0 - 2.0**-12), 0.0625**2 + (1.0 - 2.0**-12) ** 2
    size = (0.5 + 2.0**-9) ** 2 + 0.0625 + 1.0
    verdict = judge_share([first, second], LOW)
    assert verdict is not None and verdict.allowed == pytest.approx(2.0**-8 + 8.0 * math.sqrt(steps) / size, rel=1e-12)
    assert verdict.error == pytest.approx(walk / size, rel=1e-12) and verdict.got == 1.0 + verdict.error
    assert verdict.passed and verdict.detects == verdict.allowed and verdict.expected == 1.0
    less = [(W - (W1 - W), W, W * 0.0 + 2.0) for W1, W in ((np.full((30, 30), 3.0), np.full((30, 30), 2.0)),)]
    verdict = judge_share(less, LOW)  # 1 for 4: each of 900 is 3 too little, an eighth of that for sure
    assert verdict is not None and not verdict.passed and (verdict.got, verdict.error) == (-0.5, 1.5)
    assert verdict.allowed == pytest.approx(2.0**-8 + 8.0 * math.sqrt(900.0) * 6.0 / 3600.0, rel=1e-12)
    assert judge_share([first], Precision.of("float32")) is None


def right(usual: float = 0.02) -> Trained:
    """Of golden's A = (2, 1), B = (3, -1)^T and scale 0.5, with an A that is off by 0.01."""
    rows = Rows(np.array([[2.0, 1.0]]), 0.5, np.eye(1), np.zeros((1, 1)), np.zeros(1), np.array([[0.01]]))
    B, before = np.array([[3.0], [-1.0]]), np.array([[1.0], [1.0]])
    return Trained(B, np.array([[0.1], [0.2]]), np.full((2, 1), usual), before, rows)


W = np.array([[5.0, 6.0], [-7.0, 8.0]])
UPDATE = np.array([[3.0, 1.5], [-1.0, -0.5]])  # 0.5 B A


def by_golden(got: Array, low: bool, given: Trained | None = None) -> tuple[bool, float, str | None, bool]:
    sides = SimpleNamespace(**vars(judging(low)), precision=DOUBLE)
    verdict, unseen = judge_merge_by_golden(sides, got, W, given or right())
    assert verdict.stage == "merge" and verdict.what.startswith("entries")
    return verdict.passed, verdict.allowed, verdict.cause, unseen


def test_an_entry_may_be_off_by_what_B_is_off_by_along_A_and_A_along_B() -> None:
    for i, j, allowed in (
        (0, 0, 0.5 * (0.1 * (2.0 + 0.01) + 3.0 * 0.01)),
        (0, 1, 0.5 * (0.1 * (1.0 + 0.01) + 3.0 * 0.01)),
        (1, 0, 0.5 * (0.2 * (2.0 + 0.01) + 1.0 * 0.01)),
    ):
        for share, passed in ((0.99, True), (1.01, False)):
            got = W + UPDATE
            got[i, j] += share * allowed
            assert by_golden(got, low=False)[:2] == (passed, pytest.approx(allowed, rel=1e-9))


def test_all_entries_together_may_be_off_by_the_root_of_the_squares() -> None:
    usual = 0.5 * (math.sqrt((4.0 + 1.0) * 0.02**2 / 2.0) + math.sqrt((0.03**2 + 0.01**2) / 2.0))
    for share, passed in ((0.99, True), (1.01, False)):
        assert by_golden(W + UPDATE + share * usual, low=True)[0] is passed
    assert by_golden(W + UPDATE + 1.01 * usual, low=True)[1] == pytest.approx(usual, rel=1e-9)
    assert by_golden(W + UPDATE + 1.01 * usual, low=False)[0]


def test_a_merge_a_step_early_is_named_and_an_update_that_noise_hides_is_said() -> None:
    early = W + 0.5 * np.array([[1.0], [1.0]]) @ np.array([[2.0, 1.0]])
    small = right()
    small.error[:] = 0.01
    assert by_golden(early, False, small)[2:] == ("it is merged a step early", False)
    assert by_golden(W, False, small)[2:] == ("the adapter is not merged", False)
    small.error[:] = 5.0
    assert by_golden(W, False, small) == (True, pytest.approx(0.5 * (5.0 * 2.01 + 0.03), rel=1e-9), None, True)


@pytest.mark.parametrize(
    ("slip", "cause"),
    [
        (lambda s, r, D: W + D / s, "the scale alpha / r is left out"),
        (lambda s, r, D: W + D * s, "the scale is applied twice"),
        (lambda s, r, D: W + D * r, "the scale is not divided by the rank: alpha instead of alpha / r"),
        (lambda s, r, D: W + D / r, "the scale is divided by the rank twice"),
        (lambda s, r, D: W + D * math.sqrt(r), "the scale is divided by the root of the rank (rsLoRA)"),
        (lambda s, r, D: W, "the adapter is not merged"),
        (lambda s, r, D: W - D, "the update is subtracted"),
        (lambda s, r, D: W + 2.0 * D, "the update is merged twice"),
        (lambda s, r, D: D, "the frozen weight is left out"),
        (lambda s, r, D: s * (W + D / s), "the scale multiplies the whole weight"),
        (lambda s, r, D: (W + D).T, "the whole weight is transposed"),
        (lambda s, r, D: W + D.T, "the update is transposed"),
    ],
)
@pytest.mark.parametrize("scale", [0.3, -5.0])
def test_each_slip_of_a_merge_is_named(slip: object, cause: str, scale: float) -> None:
    A = np.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.25]])
    B = np.array([[1.0, 0.5, -2.0], [3.0, 1.0, 0.25]])
    delta = scale * B @ A
    for dtype in ("float64", "float32"):
        got = Precision.of(dtype).rounded(slip(scale, 3, delta))  # type: ignore[operator]
        rules: dict = {"W": W, "A": A, "B": B, "scale": scale, "switches": None, "precision": Precision.of(dtype)}
        (verdict,) = judge_merge(got, **rules)
        assert not verdict.passed and cause == verdict.cause
        (verdict,) = judge_merge(Precision.of(dtype).rounded(W + delta), **rules)
        assert verdict.passed
    (verdict,) = judge_merge(W + B @ A, **rules | {"scale": 0.0})
    assert not verdict.passed


def test_rounding_of_each_part_of_a_merge_is_allowed() -> None:
    """W of 8, an update of 0.5 * 3 * 2 = 3 by a product of one term, in float16, which tells its tiny part."""
    unit, tiny, arithmetic = 2.0**-10, 2.0**-14, 2.0**-23 + 2.0**-52
    product = 6.0 * (1.0 + 1.0) * arithmetic * 3.0 + tiny
    allowed = product + (unit * 5.0 + tiny) + (unit * 8.0 + tiny) + 2.0 * (unit * 3.0 + tiny) + unit * 3.0
    one: dict = {"A": np.array([[2.0]]), "B": np.array([[-3.0]]), "scale": 0.5, "switches": None}
    (verdict,) = judge_merge(np.array([[5.0]]), W=np.array([[8.0]]), **one, precision=Precision.of("float16"))
    assert verdict.passed and verdict.allowed == pytest.approx(allowed, rel=1e-12)
    assert verdict.detects == pytest.approx(allowed / 5.0, rel=1e-12)


class Trace(Held):
    """One module m, after two steps."""

    manifest = SimpleNamespace(train={"steps": 2}, alpha=4.0, r_init=2)

    def modules(self, kind: str) -> list[str]:
        return [name.removeprefix(f"{kind}/") for name in self if name.startswith(f"{kind}/")]

    def numbered(self, prefix: str, suffix: str) -> list[int]:
        return sorted(int(name.split("/")[1]) for name in self if name.startswith("train/"))


RUN = {"merged/m": np.array([[10.0]]), "scale/m": 0.5, "A/m": np.array([[2.0]]), "train/2/B/m": np.array([[3.0]])}


def test_the_frozen_weight_is_golden_s_merge_undone() -> None:
    def frozen(lacking: str = "", freeze: bool = True, steps: int = 2, **more: Array) -> Array | None:
        golden = Trace({k: v for k, v in (RUN | more).items() if k != lacking})
        golden.manifest = SimpleNamespace(train={"steps": steps}, alpha=4.0, r_init=2)
        sides: Any = SimpleNamespace(weight=lambda m: None, golden=golden, switches=SimpleNamespace(freeze_A=freeze))
        return _frozen_weight(sides, "m")

    assert frozen() == 7.0 and frozen(freeze=False, **{"train/2/A/m": np.array([[4.0]])}) == 4.0
    assert frozen(steps=0) == 10.0 and frozen("merged/m", steps=0) is None
    assert all(frozen(name) is None for name in ("A/m", "scale/m", "train/2/B/m")) and frozen(freeze=False) is None


def test_a_module_is_judged_by_its_own_A_B_and_scale_after_the_last_step() -> None:
    def A_before(step: int, m: str) -> Array:
        assert step == 3
        return np.array([[2.0]])

    def found(merged: float) -> list[Any]:
        candidate = Trace(RUN | {"merged/m": np.array([[merged]])})
        said: Any = {"own": lambda stage, m, verdict: SimpleNamespace(verdict=verdict), "switches": None}
        said |= {"train": {"steps": 2}, "A_before": A_before, "weight": lambda m: np.array([[7.0]]), "precision": LOW}
        sides: Any = SimpleNamespace(candidate=candidate, golden=Trace(RUN), **said)
        return [finding.verdict for finding in findings(sides)]

    own, together = found(10.0)
    assert own.passed and own.error == 0.0 and together.passed and (together.got, together.error) == (1.0, 0.0)
    (wrong,) = found(12.0)  # the share of all is told where each module is right
    assert not wrong.passed and wrong.error == 2.0
