"""How far the noise of a whole run carries B, one step at a time: numbers of one and two entries."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.oracle.stages.test_rows import Held
from tlora_ref.backend import Array
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages.moments import Moments
from tlora_ref.oracle.stages.rows import Rows
from tlora_ref.oracle.stages.whole_run import Trained, _limited, _Run, _unit_columns, held, judge_B, longest, trained

BETA1, BETA2 = 0.9, 0.999
SETTINGS = {"betas": (BETA1, BETA2), "eps": 1e-8, "weight_decay": 0.1, "max_grad_norm": None}
DOUBLE, LOW = Precision.of("float64"), Precision.of("bfloat16")


class Noise:
    """Of the network: 0.25 in an entry of a gradient, 0.125 usually, as long as it is asked for that."""

    low = False

    def __call__(self, quantity: str, key: str, grad: Array) -> float:
        assert quantity == "grad_B" and key in {f"{t}/{m}" for t in range(1, 5) for m in "ab"}
        return 0.25

    def usual(self, quantity: str, key: str, grad: Array) -> float:
        return self(quantity, key, grad) / 2.0


def rows(inside: float = 0.0) -> Rows:
    """Of an A of one row, whose error holds so much of it."""
    return Rows(np.ones((1, 2)), 3.0, np.eye(1), np.full((1, 1), inside), np.zeros(1), np.zeros((1, 1)))


def run(tensors: dict[str, Any], precision: Precision = DOUBLE, kind: Any = _Run, **changes: Any) -> Any:
    golden = Held({name: np.array(x) for name, x in tensors.items()})
    candidate = SimpleNamespace(names=list)
    sides = SimpleNamespace(
        golden=golden, candidate=candidate, precision=precision, network=Noise(), train=SETTINGS | changes
    )
    return kind(sides, {"a": rows(0.5), "b": rows()})


#: B and its gradient of two modules and four steps.
TENSORS: dict[str, Any] = {
    **{f"train/{t}/B/a": [[x]] for t, x in ((1, 3.0), (2, 5.0), (3, 5.5), (4, 9.0))},
    **{f"train/{t}/B/b": [[x]] for t, x in ((1, 4.0), (2, 4.0), (3, 4.0), (4, 4.0))},
    **{f"train/{t}/grad_B/a": [[x]] for t, x in ((1, 1.0), (2, 6.0), (3, 5.0), (4, 5.5))},
    **{f"train/{t}/grad_B/b": [[x]] for t, x in ((1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0))},
    "train/lr": [0.5, 0.25, 0.125, 0.0],
}


def test_roughness_is_the_usual_change_of_a_gradient_for_the_change_of_all_B_before_it() -> None:
    # B moves by 3 and 4, then 2 and 0, then 0.5 and 0; the gradient of a thereafter by 5, 1 and 0.5
    moved = [math.sqrt(25.0 / 2.0), math.sqrt(4.0 / 2.0), math.sqrt(0.25 / 2.0)]
    each = [5.0 / moved[0], 1.0 / moved[1], 0.5 / moved[2]]
    made = run(TENSORS)
    assert [made._roughness(t, "a") for t in (1, 2)] == [0.0, each[0]]
    assert made._roughness(3, "a") == pytest.approx((each[0] + each[1]) / 2.0)
    assert made._roughness(4, "a") == pytest.approx(each[0] + each[1] + each[2] - min(each) - max(each))
    assert made._roughness(4, "b") == 0.0
    # a run that goes on from a B that is recorded
    onwards = run(TENSORS | {"train/0/B/a": [[3.0]], "train/0/B/b": [[1.0]]})
    assert onwards._roughness(2, "a") == pytest.approx(5.0 / math.sqrt(9.0 / 2.0))
    assert run(TENSORS | {"train/0/B/a": [[3.0]], "train/0/B/b": [[4.0]]})._roughness(2, "a") == 0.0  # B is still


def test_a_gradient_is_off_by_the_network_s_noise_by_A_s_and_by_B_s() -> None:
    made, grad = run(TENSORS), np.array([[6.0]])
    rough = made._roughness(2, "a")
    np.testing.assert_allclose(made._errors(2, "a", grad, 0.01), 0.25 + 0.5 * 6.0 + 0.01 * rough)
    np.testing.assert_allclose(made._usual(2, "a", grad, 0.01), 0.125 + 0.5 * 6.0 + 0.01 * rough)


@pytest.mark.parametrize(
    ("most", "factor", "relative"),
    [
        (None, 1.0, 0.0),
        (6.0, 1.0, 0.0),
        (5.45, 1.0, 0.1),  # the error of a tenth may have it clipped
        (5.7, 1.0, 0.0),
        (4.0, 4.0 / (5.0 + 1e-6), 0.1),
        (0.0, 1.0, 0.0),  # off
    ],
)
def test_the_clipping_factor_is_off_by_the_error_of_the_norm(
    most: float | None, factor: float, relative: float
) -> None:
    """Gradients of 3 and 4 together of norm 5, their errors of 0.3 and 0.4 of 0.5, a tenth of that."""
    grads, errors = ({"a": np.array([[x]]), "b": np.array([[-y]])} for x, y in ((3.0, 4.0), (0.3, -0.4)))
    state = {m: Moments.zeros((1, 1)) for m in grads}
    after = run(TENSORS, max_grad_norm=most)._stepped(1, state, grads, errors)
    for m, grad, error in (("a", 3.0, 0.3), ("b", -4.0, 0.4)):
        # the first moments are a tenth of the gradient, and off by a tenth of its error
        assert after[m].values[1].item() == pytest.approx((1.0 - BETA1) * factor * grad, rel=1e-12)
        expected = (1.0 - BETA1) * factor * (error + relative * abs(grad))
        assert after[m].errors[1].item() == pytest.approx(expected, rel=1e-9)
        assert after[m].values[0].item() == pytest.approx(-0.5 * math.copysign(1.0, grad), rel=1e-6)  # lr of step 1


def test_a_low_precision_rounds_the_norm_too() -> None:
    grads = {"a": np.array([[3.0]]), "b": np.array([[4.0]])}
    still = {m: np.zeros((1, 1)) for m in grads}
    after = run(TENSORS, LOW, max_grad_norm=4.0)._stepped(
        2, {m: Moments.zeros((1, 1)) for m in grads}, grads, still
    )  # fmt: skip
    arithmetic = 2.0**-23 + 2.0**-52
    off = 4.0 * 2.0**-7 + 6.0 * (math.sqrt(2.0) + 1.0) * arithmetic  # of four roundings, and of a sum of two squares
    rounded = 6.0 * arithmetic + 2.0**-7  # of the moment itself
    for m, grad in (("a", 3.0), ("b", 4.0)):
        of_it = (1.0 - BETA1) * 4.0 / (5.0 + 1e-6) * grad
        assert after[m].errors[1].item() == pytest.approx(of_it * (off + rounded), rel=1e-9)
    # the second step has its own learning rate, its bias its power: m / c1 = g / 1.9, sqrt(v / c2) = g / sqrt(1.999)
    moved = -0.25 * math.sqrt(1.999) / 1.9
    assert after["a"].values[0].item() == pytest.approx(moved, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_no_error_is_larger_than_the_longest_update_either_way(dtype: str) -> None:
    settings, p = {"betas": (BETA1, BETA2), "lr": 0.5, "weight_decay": 0.2, "step": 3}, Precision.of(dtype)
    others = (np.array([[7.0, 8.0]]), np.array([[9.0, 9.5]]))
    before, after = (
        Moments((np.array([[x, y]]), *others), (np.array([[e, f]]), *others))
        for x, y, e, f in ((1.0, -2.0, 0.1, 0.2), (1.25, -1.0, 1e9, 1e-3))
    )
    found = _limited(before, after, settings, p)
    unit = 6.0 * (p.accumulation + 2.0**-52) + p.storage
    # golden's own B moved by 1.25 - 0.9; the decay leaves 0.9 of it
    apart = 0.1 + 0.5 * longest((BETA1, BETA2), 3) * (1.0 + 8.0 * unit) + 0.35 + 3.0 * unit * (1.0 + 1.25) + p.tiny
    np.testing.assert_allclose(found.errors[0], [[apart, 1e-3]], rtol=1e-12)
    assert found.values is after.values and found.errors[1:] == after.errors[1:]
    still = _limited(Moments((after.values[0],) * 3, (np.zeros((1, 2)),) * 3), after, settings | {"lr": 0.0}, p)
    assert still.errors[0][0, 0] == pytest.approx(3.0 * unit * 2.5 + p.tiny, rel=1e-12)  # rounding alone


def test_columns_are_of_length_one_or_zero() -> None:
    (found,) = _unit_columns(np.array([[3.0, 0.0, 0.0], [4.0, 0.0, -2.0]]))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]])


class Spy(_Run):
    """What is handed from step to step: errors that are told apart by number."""

    def _errors(self, t: int, m: str, grad: Array, drift: float) -> Array:
        self.drifts = [*getattr(self, "drifts", []), (t, m, drift)]
        return np.zeros_like(grad)

    def _usual(self, t: int, m: str, grad: Array, drift: float) -> Array:
        return self._errors(t, f"usual {m}", grad, drift)

    def _stepped(self, t: int, state: Any, grads: Any, errors: Any) -> dict[str, Moments]:
        off = {m: x.errors[0] + (3.0 if m == "a" else 4.0) for m, x in state.items()}
        return {m: Moments(x.values, (off[m], off[m] * 0.0 - 1.0, off[m] * 0.0 - 2.0)) for m, x in state.items()}


def test_the_errors_of_all_B_together_go_on_to_the_next_step() -> None:
    made = run(TENSORS, kind=Spy)
    found = made.after(2)
    together = math.sqrt((9.0 + 16.0) / 2.0)
    assert made.drifts == [
        *((1, m, 0.0) for m in ("a", "b", "usual a", "usual b")),
        *((2, m, pytest.approx(2.0 * together)) for m in ("a", "b")),  # rougher than usual
        *((2, m, pytest.approx(together)) for m in ("usual a", "usual b")),
    ]
    a = found["a"]
    assert (a.B.item(), a.error.item(), a.usual.item(), a.before.item()) == (5.0, 6.0, 6.0, 3.0)
    assert found["b"].error.item() == 8.0 and a.rows is made.rows["a"]
    assert made.after(1)["a"].before.item() == 0.0


def judging(low: bool = False, recorded: bool = True) -> Any:
    return SimpleNamespace(network=SimpleNamespace(low=low), candidate=SimpleNamespace(has=lambda name: recorded))


def test_what_is_usual_is_held_in_a_low_precision_alone() -> None:
    got, right = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 2.0, 3.5]])
    for low, allowed, usual, passed in ((False, 1.0, 0.1, True), (True, 1.0, 0.1, False), (True, 1.0, 0.3, True),
                                        (True, 0.4, 0.3, False), (False, 0.4, 9.0, False)):  # fmt: skip
        verdict = held(judging(low), "adamw", "B", got, right, np.full((1, 3), allowed), usual, [])
        assert verdict.passed is passed, (low, allowed, usual)


def test_B_is_turned_as_A_s_rows_are_and_what_hides_is_said() -> None:
    """Two columns that the candidate has in another order, and one of them with another sign."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    B, before = np.array([[2.0, 0.5], [1.0, -1.0]]), np.array([[1.0, 0.25], [0.5, -0.5]])
    kept = Rows(np.eye(2, 3), 3.0, turn, np.zeros((2, 2)), np.zeros(2), np.zeros((2, 1)))

    def judged(got: Array, error: float, recorded: bool = True) -> tuple[bool, str | None, list[str]]:
        right = Trained(B, np.full((2, 2), error), np.full((2, 2), error), before, kept)
        verdict, unseen = judge_B(judging(recorded=recorded), 7, "m", got, right)
        assert verdict.what == "B of step 7" and verdict.stage == "adamw"
        return verdict.passed, verdict.cause, unseen

    late, no = "it is B of the step before: the last step is missing", "B is not trained"
    for recorded in (True, False):
        assert judged(B @ turn.T, 0.02, recorded) == (True, None, [])
        assert judged(before @ turn.T, 0.02, recorded) == (False, late, [])
        assert judged(0.0 * B, 0.02, recorded) == (False, no, [])
        assert judged(3.0 * B @ turn.T, 0.02, recorded) == (False, "B holds s B: the scale is folded in", [])
    assert judged(-B @ turn.T, 0.02) == (False, "the update goes uphill", [])
    assert judged(-B @ turn.T, 0.02, recorded=False)[0]  # signs are free where A is not known
    assert judged(B @ turn.T, 1.0) == (True, None, [late]) and judged(B @ turn.T, 2.0) == (True, None, [no, late])


def test_golden_tells_B_where_the_run_is_known_and_all_its_steps_are(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {"contradiction": None, "unsaid": None, "rows_of": rows()}
    for name in said:
        monkeypatch.setattr(f"tlora_ref.oracle.stages.whole_run.{name}", lambda *_, name=name: said[name])

    def told(lacking: str = "", last: int = 2, train: bool = True, freeze: bool = True, same: bool = False) -> str:
        golden = Held({n: np.array(x) for n, x in TENSORS.items() if not lacking or not n.startswith(lacking)})
        golden.manifest, golden.modules = SimpleNamespace(train=train), lambda kind: ["a", "b"]  # type: ignore[attr-defined]
        sides = SimpleNamespace(
            golden=golden, candidate=SimpleNamespace(names=list), precision=DOUBLE, network=Noise(), train=SETTINGS,
            switches=SimpleNamespace(freeze_A=freeze), same_run=same,
        )  # fmt: skip
        found = trained(sides, last)  # type: ignore[arg-type]
        return found if isinstance(found, str) else " ".join(found)

    assert told() == "a b" == told(last=4) == told("train/3") == told("train/4")
    for lacking in ("train/1/grad_B/a", "train/2/grad_B/b", "train/lr", "train/2/B/a", "train/1/B/b"):
        assert told(lacking) == "the golden trace has not all gradients and B up to this step"
    assert told("train/4", last=4) == "the golden trace has not all gradients and B up to this step"
    assert told(train=False) == "the golden trace does not say how it was trained"
    assert told(freeze=False) == "this run trains A too: its steps must be recorded"
    said["rows_of"] = "other rows"
    assert told() == "other rows"
    said["unsaid"] = "its samples are not known"
    assert told().startswith("its samples are not known: say --same-run") and told(same=True) == "other rows"
    said["contradiction"] = "it is another"
    assert told() == told(same=True) == "it is another: its steps must be recorded"
