"""Samples of like length in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.training.test_training import bits, prepared
from tlora_ref.data import batches


def test_every_sample_comes_once_and_padding_is_less() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(3, 200, size=333)]
    numbers = list(range(len(lengths)))

    def padded(found: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in found)

    plain = list(batches(numbers, 4, seed=1))
    grouped = list(batches(numbers, 4, seed=1, lengths=lengths))
    assert sorted(i for batch in grouped for i in batch) == numbers and len(grouped) == len(plain)
    assert padded(grouped) < 1.1 * sum(lengths) < 1.3 * sum(lengths) < padded(plain)
    assert grouped != list(batches(numbers, 4, seed=1, epoch=1, lengths=lengths))
    assert grouped == list(batches(numbers, 4, seed=1, lengths=lengths))
    longest = [max(lengths[i] for i in batch) for batch in grouped]
    assert longest != sorted(longest, reverse=True)  # long ones do not all come first
    assert list(batches(numbers, 4, seed=1)) == plain == list(batches(numbers, 4, seed=1, lengths=None))


def test_a_grouped_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    data = [{"input_ids": list(range(1, n + 2)), "labels": list(range(1, n + 2))} for n in (9, 2, 7, 3, 5, 4, 8)]
    options: dict[str, Any] = {"steps": 9, "batch_size": 2, "lr": 0.02, "group_by_length": True}

    def stop(entry: dict[str, Any]) -> None:
        if entry["step"] == 5:
            raise KeyboardInterrupt

    ends = []
    for out, on_step in ((tmp_path / "whole", None), (tmp_path / "a", stop)):
        model, adapter = prepared()
        if on_step is None:
            tr.train(model, adapter, data, **options, out=out)
        else:
            with pytest.raises(KeyboardInterrupt):
                tr.train(model, adapter, data, **options, out=out, on_step=on_step)
            model, adapter = prepared()
            tr.train(model, adapter, data, **options, out=out, resume=True)
        ends.append(bits(adapter.B))
    assert ends[0] == ends[1]
    with pytest.raises(tr.TLoRAError, match="group_by_length: then True, now False"):
        tr.train(*prepared(), data, **{**options, "group_by_length": False}, out=out, resume=True)
