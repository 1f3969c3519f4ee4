"""What the commands are made of, from Python: the same bits as the commands, Eq. 1 by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.cli.conftest import Run, folder, run
from tests.tiny import tiny_llama

__all__ = ["folder", "run"]  # fixtures


def adapter_of(folder: Path, settings: tr.AdapterSettings) -> tuple[tr.Adapter, list[int]]:
    """The commands' steps, in Python."""
    source = tr.DataSource(folder / "data")
    rows, model = source.rows("train"), tr.load_model(folder / "model")
    samples, left_out = source.encoded(rows, model, tr.load_tokenizer_for(folder / "model", rows))
    assert left_out.samples == len(rows)
    statistics, indices = tr.calibrate_for(settings, model, samples)
    return tr.make_adapter(settings, model, statistics), indices


def test_an_adapter_is_that_of_the_command(folder: Path, run: Run) -> None:
    flags = ("--samples", 3, "--rank", 2, "--alpha", 3, "--target", "v_proj", "--uniform-scale", "--seed", 5)
    status, said, _ = run(
        *("init", folder / "model", "--data", folder / "data", "--out", folder / "a", "--dtype", "float64", "--json"),
        *flags,
    )
    settings = tr.AdapterSettings(rank=2, alpha=3.0, targets=("v_proj",), samples=3, seed=5, adapt_scale=False)
    mine, indices = adapter_of(folder, settings)
    theirs = tr.load_peft(folder / "a")
    assert status == 0 and json.loads(said)["calibration"] == indices
    assert mine.modules == theirs.modules and mine.scale == theirs.scale
    for module in mine.modules:  # the file holds float32
        assert np.array_equal(mine.A[module].astype(np.float32), theirs.A[module].astype(np.float32))


def test_bad_settings_are_refused_before_any_work(folder: Path) -> None:
    for wrong, match in (
        ({"init": "svd"}, "expected one of wc-svd"),
        ({"rank": 0}, "r_init"),
        ({"alpha": -1.0}, "alpha"),
        ({"uniform_scale": "alpha"}, "uniform_scale"),
    ):
        with pytest.raises(tr.TLoRAError, match=match):
            tr.AdapterSettings(**wrong)
    with pytest.raises(tr.TLoRAError, match='template "gsm" is unknown'):
        tr.DataSource(folder / "data", template="gsm")
    with pytest.raises(tr.TLoRAError, match="leave --field"):
        tr.DataSource(folder / "data", {"prompt": "q"}, task=tr.load_task("sst2"))


def test_statistics_of_other_modules_are_refused(folder: Path) -> None:
    settings = tr.AdapterSettings(rank=2, samples=2, targets=("q_proj",))
    source, model = tr.DataSource(folder / "data"), tr.load_model(folder / "model")
    samples, _ = source.encoded(source.rows("train"), model, None)
    tr.calibrate_for(settings, model, samples)[0].save(folder / "stats.safetensors")
    assert tr.load_statistics(folder / "stats.safetensors", settings.shapes(model)).samples == 2
    with pytest.raises(tr.TLoRAError, match=r"holds no statistics of .*k_proj"):
        tr.load_statistics(folder / "stats.safetensors", model.shapes(["k_proj"]))


def test_held_out_rows_are_those_of_the_split_or_of_a_file(folder: Path) -> None:
    source = tr.DataSource(folder / "data")
    assert len(source.held_out()) == 3 and len(source.held_out(folder / "data" / "train.jsonl")) == 8
    assert tr.DataSource(folder / "data" / "train.jsonl").held_out() == []


def test_merging_is_equation_1_and_a_foreign_adapter_is_told(folder: Path) -> None:
    adapter, _ = adapter_of(folder, tr.AdapterSettings(rank=2, samples=2))
    rng = np.random.default_rng(0)
    for module in adapter.modules:
        adapter.B[module] = rng.standard_normal(adapter.B[module].shape)
    tr.save_peft(adapter, folder / "a")
    merged = tr.merge_checkpoint(folder / "model", folder / "a", folder / "m", "float64")
    model, kept, after = tr.load_model(folder / "model"), tr.load_peft(folder / "a"), tr.load_model(folder / "m")
    for m in kept.modules:
        np.testing.assert_allclose(after.weight(m), model.weight(m) + kept.scale[m] * kept.B[m] @ kept.A[m], atol=1e-12)
    assert merged.mean == max(merged.rounded_away.values()) == 0.0 and merged.worst in kept.modules
    tr.save_model(tiny_llama(seed=1), folder / "other")
    with pytest.warns(UserWarning, match="made for other weights"):
        tr.load_adapted(folder / "other", folder / "a")
