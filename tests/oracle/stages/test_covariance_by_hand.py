"""C's judge, and the sums of X_n, on one or two numbers: by how much they may be off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.reports.finding import FAIL, GOLDEN, OWN_INPUTS, PASS, Finding
from tlora_ref.oracle.stages.bounds import entries
from tlora_ref.oracle.stages.covariance import MOST, _of_samples, _slips_of, judge_covariance
from tlora_ref.oracle.verdict import Verdict

ROUGH = Precision("rough", np.dtype(np.float32), 2.0**-8, 0.0, 0.0)  # of the storage alone
X = [np.array([[3.0], [-1.0]]), np.array([[2.0], [4.0]])]  # two tokens of two samples: C is (10 + 20) / 2


def off_by(most: float, precision: Precision) -> list[Verdict]:
    """What C is judged to be just within, and just beyond, either way."""
    rules: dict[str, Any] = {"inputs": X, "switches": PROFILES["paper"], "precision": precision}
    offs = (0.99 * most, -0.99 * most, 1.01 * most, -1.01 * most)
    return [judge_covariance(np.array([[15.0 + off]]), **rules)[0] for off in offs]


def test_C_may_be_off_by_its_storage_and_by_all_that_is_kept_on_the_way() -> None:
    kept = 2.0 * 15.0 + (3.0 * (10.0 + 20.0) + (10.0 + 30.0)) / 2.0  # X twice, the samples' products thrice, their sums
    fine = Precision("fine", np.dtype(np.float32), 2.0**-8, 0.0, 2.0**-8)  # what is summed as finely as it is kept
    double = 6.0 * (np.sqrt(4.0) + 1.0) * 15.0  # of the sums over four tokens, a unit of which is the reference's own
    for precision, most in (
        (ROUGH, 15.0 * 2.0**-8 + 2.0**-9 * kept + double * 2.0**-52),
        (fine, 15.0 * 2.0**-8 + double * (2.0**-8 + 2.0**-52)),
    ):
        found = off_by(most, precision)
        assert [v.passed for v in found] == [True, True, False, False]
        assert [v.allowed for v in found] == pytest.approx([most] * 4, rel=1e-12)


class Held(dict[str, Any]):
    """Of a trace, what it holds."""

    has, get = dict.__contains__, dict.__getitem__


def sides(golden: dict[str, Any], candidate: dict[str, Any], noise: float = 1.0) -> Any:
    """Of two samples; the network's own noise lets a sum be off by `noise`."""
    gold: Any = Held(golden)
    gold.manifest = SimpleNamespace(samples=2)

    def network(kind: str, key: str, values: Any) -> float:
        assert (kind, key) == ("input_sum", "0/m")
        return noise

    def found(stage: str, against: str, module: str | None, v: Verdict) -> Finding:
        return Finding(stage, against, module, v, PASS if v.passed else FAIL)

    return SimpleNamespace(
        golden=gold,
        candidate=Held(candidate),
        precision=ROUGH,
        network=network,
        switches=PROFILES["paper"],
        replay=None,
        both=lambda name: name in golden and name in candidate,
        own=lambda stage, module, v: found(stage, OWN_INPUTS, module, v),
        against_golden=lambda stage, module, what, got, right, allowed, slips: found(
            stage, GOLDEN, module, entries(stage, what, got, right, allowed, slips)
        ),
        of_every_sample=lambda trace, kind, m: trace.get(f"every {kind}") if trace.has(f"every {kind}") else None,
    )


def test_a_sum_of_inputs_is_that_of_the_candidate_s_own() -> None:
    rows = np.array([[3.0, 1.0], [-1.0, 1.0]])  # sums of 2 and 2, of sizes 4 and 2, each input half a rounding off
    most = 2.0**-8 * 2.0 + 2.0**-9 * 4.0
    for off, status in ((0.99 * most, PASS), (1.01 * most, FAIL), (-1.01 * most, FAIL)):
        candidate = {"sample/0/input/m": rows, "sample/0/input_sum/m": np.array([2.0 + off, 2.0])}
        (found,) = _of_samples(sides({}, candidate), "m")
        assert (found.status, found.against) == (status, OWN_INPUTS) and found.verdict is not None
        assert found.verdict.what == "sum of X of sample 0"
    assert _of_samples(sides({}, {"sample/0/input/m": rows}), "m") == []


def test_against_golden_counts_are_the_same_and_sums_near() -> None:
    golden = {"sample/0/tokens/m": np.array(2.0), "sample/0/input_sum/m": np.array([4.0, -8.0])}
    for noise, most in ((1.0, 1.0), (9.0, MOST * 8.0)):  # never more than a share of the largest entry
        for off, status in ((0.99, PASS), (1.01, FAIL), (-1.01, FAIL)):
            candidate = golden | {"sample/0/input_sum/m": np.array([4.0 + off * most, -8.0])}
            count, total = _of_samples(sides(golden, candidate, noise=noise), "m")
            assert (count.status, total.status, total.against) == (PASS, status, GOLDEN)
    candidate = {"sample/0/tokens/m": np.array(3.0)}
    assert [f.status for f in _of_samples(sides(golden, candidate), "m")] == [FAIL]
    zero = {"sample/0/input_sum/m": np.zeros(2)}
    assert [f.status for f in _of_samples(sides(zero, {"sample/0/input_sum/m": np.array([1e-9, 0.0])}), "m")] == [FAIL]


def test_slips_are_made_of_what_is_recorded() -> None:
    golden, sums, counts = np.array([[15.0]]), [np.array([2.0]), np.array([6.0])], [np.array(2.0), np.array(2.0)]
    by_sums = sides({"every input_sum": sums, "every tokens": counts}, {})
    made = {text: float(value().item()) for text, value in _slips_of(by_sums, "m", golden)}
    centred = "C is centred: matches the `released` switch (`centre`)"
    assert list(made.values())[:4] == [15.0 - (4.0 / 2 + 36.0 / 2) / 2, 30.0, 7.5, 30.0]
    assert made.pop(centred) == 5.0
    without_sums = {k: v for k, v in by_sums.golden.items() if k != "every input_sum"}
    assert dict(_slips_of(sides(without_sums, {}), "m", golden)).keys() == made.keys()
    without_tokens = {k: v for k, v in by_sums.golden.items() if k != "every tokens"}
    assert list(_slips_of(sides(without_tokens, {}), "m", golden)) == []
    by_sums.switches = PROFILES["released"]  # which centres: the sums do not give back what was taken out
    assert dict(_slips_of(by_sums, "m", golden)).keys() == made.keys()
    whole = sides({"every input": X, "every input_sum": sums, "every tokens": counts}, {})
    again = sides({"every input_sum": sums, "every tokens": counts}, {})
    again.replay = SimpleNamespace(inputs=lambda module: X)  # the model run again
    for case in (whole, again):
        texts = dict(_slips_of(case, "m", golden))
        assert len(texts) > 10 and texts["C is made of |X|"]() == [[15.0]]
    whole.replay = SimpleNamespace(inputs=lambda module: pytest.fail("the inputs are recorded"))
    assert len(list(_slips_of(whole, "m", golden))) > 10
