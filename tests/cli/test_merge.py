"""`merge`: what the file's dtype rounds away."""

from __future__ import annotations

import json
from pathlib import Path

import tlora_ref as tr
from tests.cli.conftest import Run


def test_a_16_bit_merge_says_what_it_rounds_away(trained: Path, run: Run) -> None:
    common = ("merge", trained / "model", "--adapter", trained / "run" / "adapter")
    lost = {}
    for dtype in ("float32", "float16", "bfloat16"):
        status, said, _ = run(*common, "--out", trained / dtype, "--dtype-out", dtype, "--json")
        found = json.loads(said)
        assert status == 0 and set(found["rounded_away"]) == set(tr.load_peft(trained / "run" / "adapter").modules)
        lost[dtype] = found["rounded_away_mean"]
        assert tr.load_model(trained / dtype).config == tr.load_model(trained / "model").config
    assert lost["float32"] < lost["float16"] < lost["bfloat16"]
    assert (trained / "bfloat16" / "config.yaml").is_file()
    status, _, error = run(*common, "--out", trained / "x", "--dtype-out", "int8")
    assert status == 2 and '"int8" cannot be written' in error and not (trained / "x").exists()
