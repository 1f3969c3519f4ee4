"""The roundings of each precision, against what its numbers show; and what a verdict says of a slip."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from tlora_ref.errors import ConfigError
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.judge import judge_allocate
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.verdict import Verdict


@pytest.mark.parametrize("name", ["float64", "float32", "bfloat16", "float16"])
def test_a_precision_is_what_its_dtype_rounds_to(name: str) -> None:
    precision, info = Precision.of(name), ml_dtypes.finfo(name)
    assert precision.dtype == np.dtype(name) and precision.name == name
    assert precision.storage == float(info.eps) and precision.tiny == float(info.smallest_normal)
    assert precision.product == 0.0  # the factors are not rounded further
    assert precision.accumulation == float(np.finfo(np.float64 if name == "float64" else np.float32).eps)
    x = np.array([1.0 + 0.75 * precision.storage, 1.0 + 0.25 * precision.storage])
    assert precision.rounded(x).tolist() == [1.0 + precision.storage, 1.0] and precision.rounded(x).dtype == np.float64


def test_tf32_is_float32_but_for_the_ten_bits_of_its_factors() -> None:
    tf32, single = Precision.of("tf32"), Precision.of("float32")
    assert tf32 == dataclasses.replace(single, name="tf32", product=2.0**-10)
    assert tf32.tiny == single.tiny
    with pytest.raises(ConfigError, match="expected float64, float32"):
        Precision.of("double")
    with pytest.raises(dataclasses.FrozenInstanceError):
        tf32.product = 0.0  # type: ignore[misc]


def test_a_verdict_tells_the_first_slip_and_what_each_leaves() -> None:
    plain = Verdict("merge", "entries", False)
    assert (plain.error, plain.allowed, plain.cause, plain.explained_by) == (0.0, 0.0, None, {})
    blamed = plain.blamed([("first", 0.25), ("second", 0.5)])
    assert blamed.cause == "first" and blamed.explained_by == {"first": 0.25, "second": 0.5}
    assert plain.blamed([]).cause is None and not plain.cause
    assert dataclasses.replace(plain, cause="a wrong shape").explained_by == {"a wrong shape": 0.0}
    assert plain.line() == "entries (off by 0, allowed 0)"
    told = Verdict("A", "rows", False, 0.5, 0.25, (1, 2), 3.0, 4.0, "turned", "free: 3")
    assert told.line() == "rows at [1, 2]: got 3, expected 4 (off by 0.5, allowed 0.25); turned; free: 3"
    assert repr(told) == f"Verdict (wrong): A, {told.line()}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        told.passed = True  # type: ignore[misc]


def test_ranks_and_scales_are_judged_each_by_its_own() -> None:
    rules: dict = {"sensitivity": np.array([1.0, 3.0]), "shapes": [(64, 64)] * 2, "r_init": 4, "alpha": 8.0}
    rules |= {"switches": PROFILES["paper"], "precision": Precision.of("float64")}
    ranks, scales = np.array([2, 6]), np.array([1.0, 3.0])  # of 2 * 4 ranks, and of a scale of 8 / 4 on average
    for output, passed in (
        ((ranks, scales), (True, True)),
        ([ranks, scales], (True, True)),
        ((ranks[::-1], scales), (False, True)),
        ((ranks, scales[::-1]), (True, False)),
    ):
        assert tuple(v.passed for v in judge_allocate(output, **rules)) == passed
    for output in (None, 3, np.array([ranks, scales]), (ranks,), (ranks, scales, scales), "ab"):
        (verdict,) = judge_allocate(output, **rules)
        assert not verdict.passed and verdict.cause == f"expected (ranks, scales), got {type(output).__name__}"
    # a slip that goes by the candidate's own ranks is told by them
    _, verdict = judge_allocate((ranks, scales * ranks), **rules)
    assert verdict.cause == "alpha_i itself: the scale is not divided by the rank"
