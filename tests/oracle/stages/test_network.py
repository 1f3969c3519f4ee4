"""How far a quantity of the whole network may be off: measured noise of a few numbers, reckoned by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.network import UNIT32, Network, kept_in
from tlora_ref.oracle.traces.noise import BFLOAT16, FLOAT32, RELATIVE, SUMS

HALF = 2.0**-7  # a rounding of bfloat16


def network(precision: str, fine: dict[str, float], low: dict[str, float], sums: float = 0.0, **relative: float) -> Any:
    """Of a quantity "q": its noise by key in float32 and in bfloat16, and the latter relatively."""
    measured = {FLOAT32: {"q": fine}, BFLOAT16: {"q": low, RELATIVE.format("q"): relative}, SUMS: {"q": {"a": sums}}}
    return Network(measured, Precision.of(precision))


def rough(tiny: float = 0.0) -> Any:
    """A precision whose three roundings are apart, and none of them another's."""

    class Rough(Precision):
        tiny = 0.0

    made = Rough("rough", np.dtype(np.float32), 2.0**-20, 0.0, 2.0**-21)
    Rough.tiny = tiny  # type: ignore[method-assign, assignment]
    return made


def test_what_was_not_measured_may_be_off_by_two_thousand_roundings_of_the_largest_entry() -> None:
    found = Network({}, rough(tiny=0.5))("q", "a", np.array([1.0, -3.0]))
    assert found == 2000.0 * 2.0**-20 * 3.0 + 0.5
    assert Network({}, rough())("q", "a", np.zeros(0)) == 0.0
    assert "2000 roundings" in Network({}, rough()).said()


def test_in_float32_sixteen_times_what_was_measured() -> None:
    golden = np.array([4.0, -8.0])
    stored = UNIT32 * 8.0 + 2.0**-126
    plain = network("float32", {"a": 3e-3, "b": 1e-3, "c": 1e-3}, {}, sums=0.25)
    assert plain("q", "a", golden) == pytest.approx(16 * 3e-3 + 0.25 + stored, rel=1e-12)
    # right by luck: a tenth of what is usual, or a rounding of the largest entry
    lucky = network("float32", {"a": 0.0, "b": 1e-3, "c": 1e-3}, {})
    assert lucky("q", "a", golden) == pytest.approx(16 * 1e-4 + stored, rel=1e-12)
    exact = network("float32", {"a": 0.0, "b": 0.0, "c": 0.0}, {})
    assert exact("q", "a", golden) == pytest.approx(16 * UNIT32 * 8.0 + stored, rel=1e-12)
    # in float64 as many times less; `sums` are measured in float32 and go with what is accumulated
    double = network("float64", {"a": 3e-3, "b": 1e-3, "c": 1e-3}, {}, sums=0.25)
    share = 2.0**-52 / UNIT32
    assert double("q", "a", golden) == pytest.approx((16 * 3e-3 + 0.25) * share + 2.0**-52 * 8.0, rel=1e-9)
    assert "16 times the golden run's own deviation in float32" in double.said()


def test_in_bfloat16_an_entry_or_a_number_by_what_was_measured_there() -> None:
    noise = network("bfloat16", {"a": 1.0}, {"a": 2.0, "b": 8.0, "c": 8.0}, sums=0.25, a=0.02, b=0.01)
    golden = np.array([64.0, -128.0])
    stored = HALF * 128.0 + 2.0**-126
    assert noise("q", "a", golden) == 16 * 2.0 + 0.25 + stored
    noise.noise[BFLOAT16]["q"]["a"] = 0.25  # less than a tenth of what is usual
    assert noise("q", "a", golden) == pytest.approx(16 * 0.8 + 0.25 + stored, rel=1e-12)
    # what holds finer digits than bfloat16's was not stored so
    fine = np.array([64.0, -128.0 + 2.0**-10])
    assert noise("q", "a", golden, fine) == pytest.approx(16 * 0.8 + 0.25 + UNIT32 * 128.0, rel=1e-9)
    # one number: relatively, by its own noise or the root mean square of all
    usual = float(np.sqrt((0.02**2 + 0.01**2) / 2))
    assert noise("q", "a", np.array(4.0)) == pytest.approx(16 * 0.02 * 4.0 + 0.25 + HALF * 4.0, rel=1e-12)
    assert noise("q", "b", np.array(4.0)) == pytest.approx(16 * usual * 4.0 + HALF * 4.0, rel=1e-12)
    half = network("float16", {"a": 1.0}, {"a": 2.0, "b": 8.0, "c": 8.0}, a=0.02, b=0.01)  # eight times finer
    assert half("q", "a", golden) == pytest.approx(16 * 2.0 / 8 + HALF / 8 * 128.0 + 2.0**-14, rel=1e-12)
    assert "in bfloat16, times 0.125 for float16" in half.said()


def test_nothing_is_usually_less_than_a_sixteenth_of_a_rounding() -> None:
    noise = network("bfloat16", {"a": 1.0}, {"a": 0.0, "b": 0.0}, a=0.0, b=0.0)
    assert noise("q", "a", np.array(1.0)) == pytest.approx(16 * HALF / 16 + HALF, rel=1e-12)


def test_an_array_is_held_to_the_root_mean_square_of_its_noise_too() -> None:
    noise = network("bfloat16", {"a": 1.0}, {"a": 2.0, "b": 2.0}, a=0.03, b=0.05)
    golden = np.full(16, 64.0)
    usual = float(np.sqrt((0.03**2 + 0.05**2) / 2))
    assert noise.usual("q", "a", golden) == pytest.approx(6 * 0.03 * 64.0, rel=1e-12)
    noise.noise[BFLOAT16][RELATIVE.format("q")]["a"] = 0.0
    usual = 0.05 / 2**0.5
    assert noise.usual("q", "a", golden) == pytest.approx(6 * 0.5 * usual * 64.0, rel=1e-12)
    assert noise.usual("q", "other", golden) == noise("q", "other", golden)  # not measured: that of every entry

    allowed = 6 * 0.5 * usual * 64.0  # 6.79, and its storage: of what bfloat16 holds 0.5 more
    for off, rounding, more, passed in (
        (7.0, HALF, 0.0, True),
        (-7.0, HALF, 0.0, True),
        (7.5, HALF, 0.0, False),
        (7.5, HALF, 0.25, True),
        (7.001, UNIT32, 0.0, False),
        (7.001, UNIT32, 0.25, True),
        (6.78, UNIT32, 0.0, True),
    ):
        found = noise.array("C", "entries", "q", "a", golden + off, golden, more=more)
        assert found.passed is passed
        most = allowed + rounding * 64.0 + 2.0**-126 + more
        assert passed or (found.what, found.allowed) == ("entries, root mean square", pytest.approx(most, rel=1e-12))
    few = noise.array("C", "entries", "q", "a", golden[:15] + 7.5, golden[:15])
    assert few.passed  # of fewer entries each is judged by itself
    beyond = noise.array("C", "entries", "q", "a", golden + 900.0, golden)
    assert not beyond.passed and beyond.what == "entries"
    unknown = noise.array("C", "entries", "q", "b", golden + 1.0, golden)
    assert unknown.passed and unknown.detects is not None


def test_numbers_together_are_held_to_the_root_mean_square_of_their_relative_errors() -> None:
    noise = network("bfloat16", {}, {"a": 1.0, "b": 1.0, "c": 1.0}, a=0.01, b=0.01, c=0.01)
    most = 6 * 0.01 + UNIT32

    def judged(**off: float) -> Any:
        pairs = {
            key: (np.float64((1.0 + x) * size), np.float64(size))
            for (key, x), size in zip(off.items(), (3.0, -5.0, 7.0), strict=False)
        }
        return noise.numbers("loss", "all", "q", pairs)

    assert judged(a=0.99 * most, b=-0.99 * most) is None
    wrong = judged(a=1.01 * most, b=-1.01 * most)
    assert wrong.error == pytest.approx(1.01 * most, rel=1e-9) and wrong.allowed == pytest.approx(most, rel=1e-12)
    assert judged(a=9.0) is None and judged() is None  # one is judged by itself
    assert judged(a=1.4 * most, b=0.0) is None and judged(a=1.5 * most, b=0.1 * most, c=1.5 * most) is not None
    assert noise.numbers("loss", "all", "q", {"a": (9.0, 0.0), "b": (9.0, 0.0)}) is None  # nothing is relative to 0
    assert noise.numbers("loss", "all", "q", {"x": (9.0, 1.0), "y": (9.0, 1.0)}) is None  # not measured
    assert noise.numbers("loss", "all", "q", {"a": (9.0, -1.0), "b": (9.0, -1.0)}) is not None
    stored = {key: (np.float64(1.0 + off), np.float64(1.0)) for key, off in (("a", 0.0625), ("b", 0.0625))}
    assert noise.numbers("loss", "all", "q", stored) is None  # in bfloat16's own digits: a rounding more
    assert network("float32", {"a": 1.0, "b": 1.0}, {}, a=0.01, b=0.01).numbers("l", "all", "q", stored) is None


def test_what_storage_numbers_show() -> None:
    low, fine = Precision.of("bfloat16"), Precision.of("float32")
    assert kept_in(low, np.array([1.0, 1.0078125])) == HALF and kept_in(low, np.array([1.0, 1.001])) == UNIT32
    assert kept_in(fine, np.array([1.0, 1.0 + 2.0**-40])) == UNIT32  # no coarser than its own
    assert kept_in(Precision.of("float64"), np.array([1.5])) == 2.0**-52
    assert kept_in(Precision.of("float16"), np.array([1e9])) == UNIT32  # beyond its range
