"""The bounds of every check, pinned: that a tolerance grows or shrinks is a decision, never a slip.

A bound that is wrong in one place changes no verdict on right or plainly wrong candidates, and a likely cause computed
wrongly is only a cause not named; so the numbers themselves are held. After a change that is meant,
`python -m tests.oracle.stages.test_bounds` writes them again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.stages.cases import cases
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.checkpoint import save_peft
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import STAGES, Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision
from tlora_ref.oracle.stages import (
    adamw,
    clipping,
    covariance,
    forward,
    gradient,
    initialization,
    loss,
    merge,
    network,
    ranks,
    scales,
    sensitivity,
    sides,
    training,
)
from tlora_ref.oracle.stages import bounds as judge_bounds
from tlora_ref.oracle.traces import MANIFEST
from tlora_ref.oracle.verdict import Verdict
from tlora_ref.training import TrainSettings

ROOT = Path(__file__).resolve().parents[3]
GOLDEN, MODEL = ROOT / "models" / "tiny-math-llama-golden", ROOT / "models" / "tiny-math-llama"
PINNED = Path(__file__).with_name("bounds.json")
PRECISIONS = ("float64", "float32", "tf32", "bfloat16", "float16")

TINY, SAMPLES = tiny_llama(seed=3), tiny_samples(3, seed=4)


def shipped(folder: Path, precision: str, **options: Any) -> tr.Report:
    """The shipped golden trace as its own candidate, in a precision that it is said to have."""
    shutil.copytree(GOLDEN, folder / "c")
    return tr.compare(GOLDEN, said(folder / "c", dtype=precision), **options)


def said(folder: Path, **changes: Any) -> Path:
    """A trace whose manifest says something else."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))
    return folder


def tiny(folder: Path, profile: str, **options: Any) -> Path:
    """A trace of the tiny model, with noise that is the same on every machine: measured, it depends on the kernel."""
    settings = TrainSettings(batch_size=2, lr=1e-2, max_grad_norm=0.5, schedule="linear", warmup_ratio=0.5)
    tr.trace(TINY, SAMPLES, folder, profile=profile, r_init=2, alpha=3.0, steps=2, settings=settings, **options)
    noise, sizes = (
        json.loads((folder / MANIFEST).read_text())["noise"],
        {"float32": 1e-6, "sums": 3e-7, "bfloat16": 1e-2},
    )
    fixed = {
        run: {q: {key: sizes[run] * (1 + i % 7) for i, key in enumerate(sorted(keys))} for q, keys in tables.items()}
        for run, tables in noise.items()
    }
    return said(folder, noise=fixed)


ALL = ("calibration", "allocation", "initialization", "training", "merge", "inputs", "gradients")


def itself(folder: Path, profile: str, precision: str, *, weights: bool = True, **options: Any) -> tr.Report:
    golden = tiny(folder / "g", profile, **options)
    shutil.copytree(golden, folder / "c")
    return tr.compare(golden, said(folder / "c", dtype=precision), checkpoint=TINY if weights else None)


def bare_adapter(folder: Path, **options: Any) -> tr.Report:
    golden = tiny(folder / "g", "paper")
    stats = tr.calibrate(TINY, SAMPLES)
    adapter = tr.initialize(TINY, stats, tr.allocate(stats.sensitivity, TINY.shapes(), 2, 3.0))
    save_peft(adapter, folder / "adapter")
    return tr.compare(golden, folder / "adapter", **options)


#: What is compared with what; together they reach every branch that makes a bound.
RUNS: dict[str, Callable[[Path], tr.Report]] = {
    **{f"shipped {p}": lambda folder, p=p: shipped(folder, p, checkpoint=MODEL) for p in PRECISIONS},  # type: ignore[misc]
    "shipped float32, no weights": lambda folder: shipped(folder, "float32"),
    "shipped float32, twice as wide": lambda folder: shipped(folder, "float32", tolerances={"covariance": 2.0}),
    "paper, all recorded": lambda folder: itself(folder, "paper", "float32", stages=ALL),
    "released, all recorded": lambda folder: itself(folder, "released", "float32", stages=ALL),
    "released bfloat16": lambda folder: itself(folder, "released", "bfloat16"),
    "released, no weights": lambda folder: itself(folder, "released", "float64", weights=False),
    "paper, noise not measured": lambda folder: itself(folder, "paper", "float16", noise=False),
    "bare adapter": lambda folder: bare_adapter(folder, checkpoint=TINY),
    "bare adapter, no weights": bare_adapter,
}


COMPARING = (
    *(loss, covariance, sensitivity, ranks, scales, initialization, gradient, forward, adamw, clipping, merge),
    *(training, sides, network),
)


@contextmanager
def noting() -> Iterator[dict[str, list[float]]]:
    """The bounds on all entries of everything that is compared meanwhile, by what it is.

    A verdict tells of the worst entry alone, and which one is the worst of a right candidate is chance. Of a row space
    it is the two errors that its bound is made of: singular values end in another last bit by another BLAS kernel.
    """
    found: dict[str, list[float]] = {}

    def entries(stage: str, what: str, got: object, expected: Any, allowed: Any, slips: Any = ()) -> Verdict:
        every = np.broadcast_to(np.asarray(allowed, np.float64), np.shape(expected))
        found.setdefault(f"{stage}, {what}", []).append(float(np.mean(every)) if every.size else 0.0)
        return judge_bounds.entries(stage, what, got, expected, allowed, slips)

    def together(stage: str, what: str, got: Any, expected: Any, allowed: float, slips: Any = ()) -> Verdict:
        found.setdefault(f"{stage}, {what}, root mean square", []).append(allowed)
        return judge_bounds.root_mean_square(stage, what, got, expected, allowed, slips)

    def noted(what: str, real: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def judged(stage: str, A: Any, spectrum: Any, rounding: float) -> Verdict:
            found.setdefault(f"{stage}, {what}", []).extend([spectrum.error, rounding])
            return real(stage, A, spectrum, rounding)

        return judged

    with pytest.MonkeyPatch.context() as patch:
        for module in COMPARING:
            patch.setattr(module, "entries", entries, raising=module is not gradient)
        patch.setattr(network, "root_mean_square", together)
        for name, what in (("row_space", "row space"), ("rows", "rows")):
            patch.setattr(initialization, name, noted(what, getattr(initialization, name)))
        yield found


def bounds(run: str, folder: Path) -> dict[str, Any]:
    """The least and the largest bound of every check of a comparison, and the number of findings and skips."""
    with noting() as found:
        report = RUNS[run](folder)
    assert not report.of("fail") and not report.of("cascade")
    counted = Counter(f"{f.stage} against {f.against}, {f.status}" for f in report.findings)
    ranges = {key: [min(values), max(values), len(values)] for key, values in found.items()}
    return ranges | dict(sorted(counted.items()))


def displaced(output: Any, part: int, entry: int) -> Any:
    """An output with one entry of one part far off."""
    parts = [np.array(p, np.float64) for p in (output if isinstance(output, tuple) else (output,))]
    parts[part].flat[entry % parts[part].size] += 3.0 + np.abs(parts[part]).max()
    return tuple(parts) if len(parts) > 1 else parts[0]


def judged(stage: str, profile: str, precision: str) -> Iterator[list[Any]]:
    """What is said of outputs with one entry displaced: where, what was expected, and what is allowed there."""
    switches = PROFILES[profile]
    for seed in (2, 5):
        inputs = cases(seed, Precision.of(precision))[stage]
        right = getattr(Reference(switches), stage)(**inputs)
        for part in range(len(right) if isinstance(right, tuple) else 1):
            for entry in (0, 7):
                wrong = displaced(right, part, entry)
                for v in judge(stage, inputs, wrong, switches=switches, precision=Precision.of(precision)):
                    told = [None if v.index is None else list(v.index), v.allowed, v.expected]
                    yield [v.what, *([] if v.passed else told)]


def slips(profile: str) -> dict[str, list[judge_bounds.Slip]]:
    """Every table of slips on fixed inputs."""
    switches, inputs = PROFILES[profile], cases(5, Precision.of("float64"))
    S, step = inputs["allocate"]["sensitivity"], inputs["adamw_step"]
    X, gradients = inputs["covariance"]["inputs"], inputs["sensitivity"]["gradients"]
    C = covariance.centred_from_sums(np.eye(len(X[0][0])), [x.sum(axis=0) for x in X], [len(x) for x in X])
    rest = {name: step[name] for name in ("step", "lr", "betas", "eps", "weight_decay")}
    updates = adamw.adamw_slips(step["B"], step["exp_avg"], step["exp_avg_sq"], step["grad"], **rest)
    used = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 7.0])
    return {
        "loss": loss.loss_slips(**inputs["loss"]),
        "covariance": covariance.covariance_slips(X, switches),
        "centred": [("C from sums", lambda: C)],
        "sensitivity": sensitivity.sensitivity_slips(inputs["sensitivity"]["W"], gradients),
        "ranks": ranks.rank_slips(S, [(2, 9), (9, 3), (4, 4), (9, 9), (1, 9), (9, 9)], 3, switches),
        "scales": scales.scale_slips(S, 3, 4.0, used, switches),
        "scales, ranks unknown": scales.scale_slips(S, 3, 4.0, None, switches),
        "gradient": gradient.gradient_slips(step["grad"], 0.7, 9, 3),
        "run": training.run_slips([step["grad"], 2 * step["grad"], step["B"]], 0.7, [0.01, 0.02, 0.03]),
        **{f"adamw {name}": table for name, table in updates.items()},
    }


def given(profile: str) -> dict[str, list[float]]:
    """What each slip gives, as one number a slip: its entries, each with a weight of its own, added up."""

    def number(values: Any) -> float:
        flat = np.asarray(values, np.float64).ravel()
        return float(flat @ np.cos(np.arange(len(flat))))

    return {name: [number(make()) for _, make in table] for name, table in slips(profile).items()}


def same(found: Any, pinned: Any, near: float, where: str) -> None:
    """Numbers to within `near`, all else exactly."""
    if isinstance(found, list):
        assert len(found) == len(pinned), where
        for i, (one, other) in enumerate(zip(found, pinned, strict=True)):
            same(one, other, near, f"{where}[{i}]")
    elif isinstance(found, float):
        assert found == pytest.approx(pinned, rel=near, abs=1e-300), where
    else:
        assert found == pinned and type(found) is type(pinned), where


@pytest.mark.parametrize("run", RUNS)
def test_the_bounds_of_a_comparison(run: str, tmp_path: Path) -> None:
    pinned, found = json.loads(PINNED.read_text())["runs"][run], bounds(run, tmp_path)
    assert found.keys() == pinned.keys() and len(found) > 5
    for key, value in pinned.items():
        same(found[key], value, 3e-4, key)


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_bounds_of_a_judge(stage: str, profile: str) -> None:
    for precision in PRECISIONS:
        pinned = json.loads(PINNED.read_text())["judges"][f"{stage} {profile} {precision}"]
        same(list(judged(stage, profile, precision)), pinned, 3e-4, f"{stage} {profile} {precision}")


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_what_each_slip_gives(profile: str) -> None:
    pinned, found = json.loads(PINNED.read_text())["slips"][profile], given(profile)
    assert found.keys() == pinned.keys()
    for name, values in pinned.items():
        same(found[name], values, 1e-9, name)


def test_a_coarser_precision_is_allowed_more() -> None:
    runs = json.loads(PINNED.read_text())["runs"]
    for fine, coarse in [("float64", "float32"), *(("float32", p) for p in ("tf32", "bfloat16", "float16"))]:
        fine_bounds, coarse_bounds = runs[f"shipped {fine}"], runs[f"shipped {coarse}"]
        common = fine_bounds.keys() & coarse_bounds.keys()
        assert len(common) > 10
        bounded = [key for key in common if isinstance(fine_bounds[key], list)]
        assert all(fine_bounds[key][:2] <= coarse_bounds[key][:2] for key in bounded)


def write() -> None:
    """Pin what is so now."""
    runs = {}
    for run in RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            runs[run] = bounds(run, Path(scratch))
    keys = [(s, p, d) for s in sorted(STAGES) for p in sorted(PROFILES) for d in PRECISIONS]
    judges = {" ".join(key): list(judged(*key)) for key in keys}
    tables = {"runs": runs, "judges": judges, "slips": {p: given(p) for p in sorted(PROFILES)}}
    lines = [
        f" {json.dumps(name)}: {{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in table.items())
        for name, table in tables.items()
    ]
    PINNED.write_text("{\n" + "\n },\n".join(lines) + "\n }\n}\n")


if __name__ == "__main__":
    write()
