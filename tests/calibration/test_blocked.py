"""The fast forms of lines 8 and 9 give what the paper's formulas in `method` give."""

from __future__ import annotations

import numpy as np
import pytest

from tlora_ref import backend
from tlora_ref.calibration import blocked
from tlora_ref.calibration.blocked import add_second_moment, blocked_sensitivity, mirror
from tlora_ref.method.covariance import centred, second_moment
from tlora_ref.method.sensitivity import sample_sensitivity


@pytest.mark.parametrize("d_in", [6, 7, 8, 9, 13])
def test_blocks_change_nothing_and_the_result_is_symmetric(d_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "BLOCK", 4)
    X = np.random.default_rng(d_in).standard_normal((5, d_in))
    C = np.zeros((d_in, d_in))
    add_second_moment(C, X)
    mirror(C)
    np.testing.assert_allclose(C, second_moment(X), atol=1e-13)
    assert (C == C.T).all()


def test_samples_add_up_in_place_and_one_mirror_completes_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "BLOCK", 3)
    samples = [np.random.default_rng(n).standard_normal((n + 1, 7)) + 1 for n in range(5)]
    for centre in (False, True):
        total = np.zeros((7, 7))
        for X in samples[:3]:
            add_second_moment(total, centred(X) if centre else X)
        add_second_moment(total, np.concatenate([centred(X) if centre else X for X in samples[3:]]))
        mirror(total)
        expected = sum(second_moment(X, centre=centre) for X in samples)
        np.testing.assert_allclose(total, expected, rtol=1e-13, atol=1e-13)
        assert (total == total.T).all()


@pytest.mark.parametrize("numbers", [1, 7, 15, 1000])
def test_sensitivity_in_blocks_of_rows_is_that_of_the_whole(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CACHED", numbers)
    W, dW = np.random.default_rng(0).standard_normal((2, 11, 5))
    assert float(blocked_sensitivity(W, dW)) == pytest.approx(float(sample_sensitivity(W, dW)), rel=1e-14)


def test_sensitivity_of_float32_is_summed_in_float64() -> None:
    W = np.full((600, 600), 0.1, dtype=np.float32)
    assert blocked_sensitivity(W, W).dtype == np.float64
    assert float(blocked_sensitivity(W, W)) == pytest.approx(float(W[0, 0] * W[0, 0]), rel=1e-12)
