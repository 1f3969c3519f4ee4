"""The noise of a low precision as a trace measures it: several draws of it, and how much of it goes one way."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.oracle.traces import Trace
from tlora_ref.oracle.traces.noise import GRIDS, _rounded
from tlora_ref.oracle.traces.shares import parts_of

ALL_GRIDS = (1.0, *GRIDS)


def test_other_grids_are_other_roundings_of_as_many_digits() -> None:
    x = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    errors = {grid: (_rounded(x, grid) - x) / x for grid in ALL_GRIDS}
    for grid, error in errors.items():
        kept = (_rounded(x, grid) * np.float32(grid)).view(np.uint32)
        assert np.abs(error).max() <= 2.0**-8 * 1.001  # half a step of eight bits
        # a rounding of seven bits after the first is even over a step, whose relative width is 2^-8 to 2^-7
        assert 2.0**-8 / 12**0.5 < np.std(error) < 2.0**-7 / 12**0.5 and abs(np.mean(error)) < 4e-5
        assert np.mean((kept + 2) % 2**16 <= 4) > 0.99  # of float32's bits bfloat16 has the first half
    for one, other in itertools.combinations(ALL_GRIDS, 2):
        assert abs(np.corrcoef(errors[one], errors[other])[0, 1]) < 0.05
    assert np.isfinite(_rounded(np.array([3e38], np.float32), GRIDS[-1])).all()


@pytest.mark.parametrize("profile", ["paper", "released"])
def test_what_goes_one_way_is_no_more_than_all_of_the_noise(profile: str, tmp_path: Path) -> None:
    tr.trace(tiny_llama(seed=5), tiny_samples(3, seed=6), tmp_path / "t", profile=profile, r_init=2, steps=1)
    trace = Trace(tmp_path / "t")
    noise = trace.manifest.noise["bfloat16"]
    for m in trace.shapes:
        C = trace.get(f"covariance/{m}")
        for name, part in parts_of(C).items():
            most = noise["covariance, relative"][m] * np.linalg.norm(C) / np.linalg.norm(part)
            assert 0.0 < noise[f"covariance, {name}"][m] <= most * 1.0001
    assert 0.0 < noise["loss, sum"]["sum"] <= 1.0001 * max(noise["loss, relative"].values()) * 3**0.5
    # a rounding of the last number alone would be about a thousandth
    assert all(1e-4 < x < 0.1 for x in noise["loss, relative"].values())
    assert all(1e-4 < x < 0.1 for x in noise["sensitivity, relative"].values())
