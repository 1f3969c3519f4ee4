"""What goes one way is seen in bfloat16 where no entry shows it, and what rounds up and down is not called wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.network import Network
from tlora_ref.oracle.stages.shares import judge_part, judge_parts, judge_sum
from tlora_ref.oracle.traces.shares import DIAGONAL, OFF, parts_of, share, share_of_sum

LOW, RELATIVE = Precision.of("bfloat16"), 0.006
MODULES = tuple("abcdefgh")


def test_a_share_is_least_squares_along_a_part_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    error, along = rng.normal(size=(2, 5, 5))
    (right,), *_ = np.linalg.lstsq(along.reshape(-1, 1), error.ravel(), rcond=None)
    for unit in (1.0, 1e-250, 1e250):
        assert share(error * unit, along * unit) == pytest.approx(right, rel=1e-12)
    C = np.array([[2.0, 1.0], [1.0, 4.0]])
    assert [share(C * 1.25 - C, part) for part in parts_of(C).values()] == [0.25, 0.25]
    assert parts_of(C)[DIAGONAL].tolist() == [[2.0, 0.0], [0.0, 4.0]]
    assert list(parts_of(np.eye(3))) == [DIAGONAL] and parts_of(np.zeros((2, 2))) == {}


def golden(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    inputs = {m: rng.normal(size=(50, 24)) + 0.4 for m in MODULES}
    return {m: X.T @ X for m, X in inputs.items()}


def noisy(C: Array, seed: int) -> Array:
    """C with errors of RELATIVE of its root mean square, as often up as down."""
    rng = np.random.default_rng(seed)
    return C + RELATIVE * float(np.sqrt(np.mean(C**2))) * rng.normal(size=C.shape)


def measured(C: dict[str, Array], dtype: str = "bfloat16") -> Network:
    """The noise of another run with errors of that size."""
    tables: dict[str, dict[str, float]] = {"covariance, relative": dict.fromkeys(C, RELATIVE)}
    for i, (m, right) in enumerate(C.items()):
        for name, part in parts_of(right).items():
            tables.setdefault(f"covariance, {name}", {})[m] = share(noisy(right, 1000 + i) - right, part)
    return Network({"bfloat16": tables, "float32": {}}, Precision.of(dtype))


#: What is done to C: the part that is off, and the cause that is named.
WRONG = {
    "C is damped: its diagonal alone is too large": (
        lambda C: C + 0.02 * np.diag(C).mean() * np.eye(len(C)),
        DIAGONAL,
    ),
    "C is too small on its diagonal alone": (lambda C: C - 0.02 * np.diag(np.diag(C)), DIAGONAL),
    "C is shrunk towards its diagonal": (lambda C: 0.98 * C + 0.02 * np.diag(np.diag(C)), OFF),
    "C is too large off its diagonal alone": (lambda C: 1.02 * C - 0.02 * np.diag(np.diag(C)), OFF),
    None: (lambda C: 1.02 * C, DIAGONAL),
}


@pytest.mark.parametrize("seed", range(5))
def test_what_goes_one_way_in_every_module_is_seen_and_rounding_is_not(seed: int) -> None:
    C = golden(seed)
    network = measured(C)
    right = {m: (noisy(x, seed * 10 + i), x) for i, (m, x) in enumerate(C.items())}
    verdicts = [v for m, pair in right.items() for v in judge_part(network, "covariance", m, *pair)]
    together = judge_parts(network, "covariance", right)
    assert len(verdicts) == 2 * len(C) and len(together) == 2
    assert all(v.error <= 0.5 * v.allowed for v in [*verdicts, *together])
    for cause, (make, part) in WRONG.items():
        pairs = {m: (noisy(make(x), seed * 10 + i), x) for i, (m, x) in enumerate(C.items())}
        failed = [v for v in judge_parts(network, "covariance", pairs) if not v.passed]
        assert f"share of what is {part}, mean of all modules" in {v.what for v in failed}
        assert {v.cause for v in failed} == {cause}
        assert all(v.detects == v.allowed and abs(abs(v.got - 1.0) - 0.02) < 0.003 for v in failed if v.got)


def test_one_module_that_is_wrong_is_named_by_its_own_noise() -> None:
    C = golden(7)["a"]
    right, wrong = (judge_part(measured({"a": C}), "covariance", "a", x, C) for x in (noisy(C, 3), 1.05 * C))
    assert all(v.passed for v in right) and not any(v.passed for v in wrong)
    # all of the noise along C itself would be this share of it, of which 2.5 times are allowed
    (diagonal, off) = right
    assert diagonal.allowed**-2 + off.allowed**-2 == pytest.approx((2.5 * RELATIVE) ** -2, rel=1e-3)


def test_other_precisions_have_bounds_of_their_own_or_none() -> None:
    C = golden(1)
    pairs = {m: (x, x) for m, x in C.items()}
    low, half = (judge_parts(measured(C, name), "covariance", pairs) for name in ("bfloat16", "float16"))
    assert [h.allowed for h in half] == pytest.approx([v.allowed / 8.0 for v in low], rel=1e-3)
    for name in ("float32", "float64"):
        network = measured(C, name)
        assert judge_parts(network, "covariance", pairs) == [] == judge_part(network, "covariance", "a", *pairs["a"])
    assert judge_parts(Network({}, LOW), "covariance", pairs) == []
    small = np.eye(3) + 0.1
    assert judge_part(measured({"a": small}), "covariance", "a", small, small) == []  # too few entries


def losses(off: float, n: int = 16) -> dict[str, tuple[Array, Array]]:
    """{key: (got, golden)}: each off by 0.002, up and down in turn, and all of them by `off`."""
    golden = np.linspace(2.0, 6.0, n)
    got = golden * (1.0 + off + 2e-3 * np.resize([1.0, -1.0], n))
    return {str(i): pair for i, pair in enumerate(zip(got, golden, strict=True))}


def of_losses(n: int = 16, together: float = 2e-4, dtype: str = "bfloat16") -> Network:
    each = {str(i): 2e-3 for i in range(n)}
    return Network({"bfloat16": {"loss, relative": each, "loss, sum": {"sum": together}}}, Precision.of(dtype))


def test_losses_that_are_all_too_large_are_seen_and_ones_that_are_off_both_ways_are_not() -> None:
    for off, passed in ((0.0, True), (1e-3, True), (5e-3, False), (-5e-3, False)):
        (verdict,) = judge_sum(of_losses(), "sum of all losses", "loss", losses(off))
        assert verdict.passed is passed
    # independent errors of 0.002 in each of 16 losses carry their mean by 0.0005, a little more as they are not equal
    (verdict,) = judge_sum(of_losses(), "sum of all losses", "loss", losses(0.0))
    assert 4.0 * 5.0e-4 < verdict.allowed < 4.0 * 5.6e-4
    (wide,) = judge_sum(of_losses(together=3e-3), "sum of all losses", "loss", losses(5e-3))
    assert wide.passed and wide.allowed == pytest.approx(4.0 * 3e-3, rel=1e-3)
    assert share_of_sum(np.array([1.0, -3.0]), np.array([2.0, -2.0])) == -0.5


def test_the_sum_of_numbers_needs_noise_and_more_than_one() -> None:
    pairs = losses(1.0)
    assert judge_sum(of_losses(), "sum", "loss", {"0": pairs["0"]}) == []
    assert judge_sum(of_losses(dtype="float32"), "sum", "loss", pairs) == []
    assert judge_sum(Network({}, LOW), "sum", "loss", pairs) == []
    assert judge_sum(Network({"bfloat16": {"loss, relative": {"0": 1.0, "1": 1.0}}}, LOW), "sum", "loss", pairs) == []
