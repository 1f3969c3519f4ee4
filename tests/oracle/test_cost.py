"""What a verdict costs: no pass through the model and no decomposition that a right run does not need."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, Array, changed, replaced, without
from tlora_ref.oracle.traces import Trace
from tlora_ref.oracle.traces.replay import Replay

#: What is made wrong, its stage, and the pass that likely causes are told from.
PASSES = {
    r"sample/0/loss": ("loss", "_logits"),
    r"covariance/.*": ("covariance", "_inputs"),
    r"sensitivity/.*": ("sensitivity", "_gradients"),
}


def test_the_model_is_run_again_for_the_cause_of_a_failure_alone(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right run needs the training steps alone; a stage that is wrong needs its own pass besides."""
    made: set[str] = set()

    def watched(name: str) -> Any:
        make = getattr(vars(Replay)[name], "func", vars(Replay)[name])  # of a cached property

        def seen(replay: Replay, *number: int) -> Any:
            made.add(name)
            return make(replay, *number)

        return seen if make is vars(Replay)[name] else property(seen)

    for _, name in PASSES.values():
        monkeypatch.setattr(Replay, name, watched(name))
    bare = changed(golden, tmp_path / "golden", without(r"sample/\d+/(input|grad_W)/.*"))
    assert tr.compare(bare, bare, checkpoint=MODEL).passed and not made
    for pattern, (stage, name) in PASSES.items():
        candidate = changed(bare, tmp_path / stage, replaced(pattern, lambda tensors, key: 0.5 * tensors[key]))
        assert tr.compare(bare, candidate, checkpoint=MODEL).first_failing == stage
        assert made == {name}
        made.clear()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_product_with_the_covariance_is_decomposed_twice_a_module(
    golden: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """By the candidate's own C, for singular values, space, rows and directions together; and by golden's."""
    decompose, seen = np.linalg.svd, Counter[tuple[int, ...]]()

    def counted(M: Array, full_matrices: bool = True, compute_uv: bool = True) -> Any:
        seen[M.shape] += compute_uv
        return decompose(M, full_matrices, compute_uv)

    monkeypatch.setattr(np.linalg, "svd", counted)
    assert tr.compare(golden, golden, checkpoint=MODEL, dtype=dtype).passed
    trace = Trace(golden)
    shapes = Counter(trace.shapes[m] for m in trace.modules("A"))
    assert {shape: seen[shape] for shape in shapes} == {shape: 2 * n for shape, n in shapes.items()}
