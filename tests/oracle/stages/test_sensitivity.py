"""S without weights: the mean over the samples; and their values without S."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, Array, changed, replaced, without
from tlora_ref.oracle.traces import Trace


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (np.sum, "S is summed over the samples, not divided by N"),
        (lambda own: np.sum(own) / 2, "S is divided by N - 1"),
        (np.median, "S is the median over the samples"),
        (np.max, "S is the largest of the samples'"),
    ],
)
def test_a_wrong_mean_over_samples_is_seen_without_weights(
    golden: Path, tmp_path: Path, make: Callable[[Array], float], cause: str
) -> None:
    def combined(tensors: dict[str, Array], name: str) -> Array:
        return np.asarray(make(np.array([tensors[f"sample/{n}/{name}"] for n in range(3)])))

    candidate = changed(golden, tmp_path / "c", replaced("sensitivity/.*", combined))
    report = tr.compare(golden, candidate)
    assert report.first_failing == "sensitivity" and report.cause == cause
    # a wrong value of one sample leaves the mean of them right, and is no news of its own
    assert tr.compare(golden, changed(golden, tmp_path / "s", without("sample/1/sensitivity/.*"))).passed


@pytest.mark.parametrize("checkpoint", [None, MODEL])
def test_values_of_samples_are_judged_where_S_itself_is_not_recorded(
    golden: Path, tmp_path: Path, checkpoint: tr.Model | None
) -> None:
    alone = without(r"(?!sample/\d+/sensitivity/).*")
    right = tr.compare(golden, changed(golden, tmp_path / "right", alone), checkpoint=checkpoint)
    assert right.passed and right.unjudged == [] and right.coverage["sensitivity"] == "part"
    wrong = changed(tmp_path / "right", tmp_path / "wrong", replaced("sample/1/sens.*q_proj", lambda t, k: t[k] * 1.01))
    report = tr.compare(golden, wrong, checkpoint=checkpoint)
    assert report.first_failing == "sensitivity"
    assert {f.module for f in report.of("fail")} == {m for m in Trace(golden).shapes if m.endswith("q_proj")}
