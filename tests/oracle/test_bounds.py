"""The bounds of every check, pinned: that a tolerance grows or shrinks is a decision, never a slip.

A bound that is wrong in one place changes no verdict on right or plainly wrong candidates; so the numbers themselves
are held. `python -m tests.oracle.test_bounds` writes them again after a change that is meant.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest

import tlora_ref as tr

ROOT = Path(__file__).resolve().parents[2]
GOLDEN, MODEL = ROOT / "models" / "tiny-math-llama-golden", ROOT / "models" / "tiny-math-llama"
PINNED = Path(__file__).with_name("bounds.json")
PRECISIONS = ("float64", "float32", "tf32", "bfloat16", "float16")


def bounds(precision: str, folder: Path) -> dict[str, float]:
    """The shipped golden trace as its own candidate in a precision: the least and the largest bound of every check."""
    candidate = folder / precision
    shutil.copytree(GOLDEN, candidate)
    manifest = json.loads((candidate / "manifest.json").read_text())
    (candidate / "manifest.json").write_text(json.dumps({**manifest, "dtype": precision}))
    found: dict[str, list[float]] = {}
    for finding in tr.compare(GOLDEN, candidate, checkpoint=MODEL).findings:
        if finding.verdict is not None:
            key = f"{finding.stage}, {finding.verdict.what}, against {finding.against}"
            found.setdefault(key, []).append(finding.verdict.allowed)
    shutil.rmtree(candidate)
    return {f"{key}, {which.__name__}": which(values) for key, values in found.items() for which in (min, max)}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bounds_are_what_they_were(precision: str, tmp_path: Path) -> None:
    pinned = json.loads(PINNED.read_text())[precision]
    found = bounds(precision, tmp_path)
    assert found.keys() == pinned.keys() and len(found) > 20
    for key, value in pinned.items():
        # The bound of a row space follows from singular values that end in another last bit by another BLAS kernel.
        near = 1.0 if "row space" in key else 1e-3
        assert found[key] == pytest.approx(value, rel=near, abs=1e-300), key


def test_a_coarser_precision_is_allowed_more() -> None:
    pinned = json.loads(PINNED.read_text())
    for fine, coarse in [("float64", "float32"), *(("float32", p) for p in ("tf32", "bfloat16", "float16"))]:
        common = pinned[fine].keys() & pinned[coarse].keys()
        assert len(common) > 10 and all(pinned[fine][key] <= pinned[coarse][key] for key in common)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        PINNED.write_text(json.dumps({p: bounds(p, Path(scratch)) for p in PRECISIONS}, indent=1) + "\n")
