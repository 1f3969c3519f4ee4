"""What may be compared, and what of it was not judged: traces of a few numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tlora_ref.errors import CheckpointError, ConfigError
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.compare import _left_out, _of_one_kind, _required, _same_model, _same_weights, _steps_left_out
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.precision import Precision


class Small:
    """Of a trace, what comparing asks of it."""

    def __init__(self, tensors: dict[str, Any] | None = None, shapes: Any = None, **said: Any) -> None:
        self.tensors = {name: np.array(x) for name, x in (tensors or {}).items()}
        self.shapes = shapes or {"m": (2, 1), "n": (3, 1)}
        budget = {"r_init": 4, "alpha": 8.0, "init": "wc-svd", "adapt_rank": True, "adapt_scale": True}
        profile = said.pop("profile", PROFILES["paper"])
        self.manifest = SimpleNamespace(
            resolved=lambda: profile, checkpoint={}, **budget | {"uniform_scale": None} | said
        )
        self.has, self.get, self.read = self.tensors.__contains__, self.tensors.__getitem__, set[str]()

    def names(self) -> list[str]:
        return list(self.tensors)

    def modules(self, prefix: str) -> list[str]:
        return [name.removeprefix(f"{prefix}/") for name in self.tensors if name.startswith(f"{prefix}/")]

    def numbered(self, prefix: str, suffix: str) -> list[int]:
        parts = [name.split("/") for name in self.tensors]
        return sorted({int(p[1]) for p in parts if p[0] == prefix and p[2] == suffix})


@pytest.mark.parametrize(
    ("name", "value"),
    [("r_init", 3), ("r_init", 5), ("alpha", 4.0), ("alpha", 16.0), ("init", "a"), ("init", "z"),
     ("adapt_rank", False), ("adapt_scale", False), ("uniform_scale", 2.0)],
)  # fmt: skip
def test_runs_of_another_budget_or_kind_are_not_compared(name: str, value: Any) -> None:
    _of_one_kind(Small(), Small())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^{name} is .* in the golden trace and {value} in the candidate"):
        _of_one_kind(Small(), Small(**{name: value}))  # type: ignore[arg-type]


def test_other_modules_profiles_and_samples_are_not_compared() -> None:
    for shapes, odd in (({"m": (2, 1)}, "n"), ({"m": (2, 1), "n": (3, 2)}, "n"), ({"m": (2, 1), "o": (3, 1)}, "n, o")):
        with pytest.raises(CheckpointError, match=f"different models or targets: {odd} differ"):
            _of_one_kind(Small(), Small(shapes=shapes))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the golden trace has profile paper"):
        _of_one_kind(Small(), Small(profile=PROFILES["released"]))  # type: ignore[arg-type]
    tokens = {"sample/0/input_ids": [1, 2], "sample/1/input_ids": [3, 4], "sample/1/labels": [3, 5]}
    for left_out in tokens:
        fewer = {name: x for name, x in tokens.items() if name != left_out}
        _of_one_kind(Small(tokens), Small(fewer))  # type: ignore[arg-type]
        _of_one_kind(Small(fewer), Small(tokens))  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=f"^{left_out} differs"):
            _of_one_kind(Small(tokens), Small(tokens | {left_out: [1, 9]}))  # type: ignore[arg-type]


def test_weights_are_the_same_but_for_their_rounding() -> None:
    low, half = Precision.of("bfloat16"), Precision.of("float16")
    golden = Small({"weight/m": [[-4.0], [0.0]]})
    for off, precision, same in (
        ([[4.0 * 2.0**-7], [0.0]], low, True),
        ([[-4.0 * 2.0**-7], [0.0]], low, True),
        ([[4.1 * 2.0**-7], [0.0]], low, False),
        ([[-4.1 * 2.0**-7], [0.0]], low, False),
        ([[0.0], [2.0**-14]], half, True),  # what is tiny may be lost, and no more
        ([[0.0], [2.0**-13]], half, False),
        ([[4.0 * 2.0**-10 + 2.0**-14], [0.0]], half, True),
    ):
        candidate = Small({"weight/m": np.array([[-4.0], [0.0]]) + off, "weight/n": [[1.0]]})
        if same:
            _same_weights(golden, candidate, precision)  # type: ignore[arg-type]
        else:
            with pytest.raises(CheckpointError, match="weight/m differs"):
                _same_weights(golden, candidate, precision)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (1, 1)])
def test_a_checkpoint_has_golden_s_shapes(shape: tuple[int, int]) -> None:
    for found in ((2, 1), shape):
        model = SimpleNamespace(weight=lambda m, found=found: np.zeros(found if m == "m" else (3, 1)), tensors={})
        if found == (2, 1):
            _same_model(Small(), model)  # type: ignore[arg-type]
        else:
            with pytest.raises(CheckpointError, match=r"m is .* in the checkpoint, .* in the trace"):
                _same_model(Small(), model)  # type: ignore[arg-type]


def test_stages_are_required_by_name_in_their_order() -> None:
    assert _required([]) == () and _required(["all"]) == tuple(ORDER)
    assert _required(iter(["merge", "loss"])) == ("loss", "merge")
    with pytest.raises(ConfigError, match=r"^require speed: expected all, or some of loss"):
        _required(["loss", "speed"])


def run_of(grads: tuple[int, ...], steps: tuple[int, ...]) -> Small:
    return Small({f"train/{t}/grad_B/m": [1.0] for t in grads} | {f"train/{t}/B/m": [1.0] for t in steps})


def test_steps_that_a_candidate_left_out_are_counted() -> None:
    for grads, steps, said in (
        ((1, 2, 3), (1, 2, 3), []),
        ((1, 3), (1, 2, 3), [("gradient", "1 of 3 steps not recorded (first 2)")]),
        ((3,), (3,), [(stage, "2 of 3 steps not recorded (first 1)") for stage in ("gradient", "adamw")]),
        ((3,), (), [("gradient", "2 of 3 steps not recorded (first 1)")]),  # no B at all is said elsewhere
        ((), (3,), []),  # a last B alone
    ):
        golden, candidate = run_of((1, 2, 3), (1, 2, 3)), run_of(grads, steps)
        sides = SimpleNamespace(golden=golden, skipped=lambda stage, module, why: (stage, why))
        assert _steps_left_out(sides, candidate) == said  # type: ignore[arg-type]


def test_what_one_side_alone_has_is_told_by_kind() -> None:
    golden = Small({"train/loss": 1.0, "rank/m": 1, "rank/n": 1, "scale/m": 1.0, "A/m": [1.0], "A/n": [1.0]})
    candidate = Small({"rank/n": 1, "A/m": [1.0], "scale/m": 1.0, "alpha/m": 1.0, "train/1/input_ids": [1]})
    candidate.read = {"rank/n"}
    sides: Any = SimpleNamespace(candidate=candidate, not_finite={"A/n": 0})
    lacking, unread = _left_out(golden, sides)  # type: ignore[arg-type]
    assert lacking == {"train/loss": "1 of 1", "rank/<m>": "1 of 2"}
    assert unread == ["A/<m>", "scale/<m>", "alpha/<m>"]  # what a step is made on is no result
