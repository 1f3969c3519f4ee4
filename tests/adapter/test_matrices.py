"""An adapter: what it counts, merges and copies."""

from __future__ import annotations

import numpy as np
import pytest

from tlora_ref.adapter import Adapter


@pytest.mark.parametrize(("frozen", "expected"), [(True, 6 + 10), (False, 6 + 10 + 4)])
def test_an_adapter_counts_what_it_trains_and_merges(frozen: bool, expected: int) -> None:
    A, B = {"m": np.array([[1.0, 2, 3, 4]])}, {"m": np.arange(6.0)[:, None]}
    adapter = Adapter(A, B, {"m": 0.5}, frozen_A=frozen, saved={"head": np.zeros((2, 5))})
    assert adapter.trainable_parameters() == expected
    merged = adapter.merged_weight("m", np.ones((6, 4)))
    assert merged[5].tolist() == [1 + 0.5 * 5 * k for k in (1, 2, 3, 4)]
