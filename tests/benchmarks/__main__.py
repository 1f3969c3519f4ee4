"""Ours against torch + transformers + PEFT: the same checkpoint, tokens and trained parameters.

    python -m tests.benchmarks --out benchmark.json                     # the table of README; about ten minutes
    python -m tests.benchmarks --rows "train step" --models smollm2 --shapes 2x256

Each side of each case has a process of its own; they take turns (ours, torch, ours, torch, ...), and the ratio is the
median of the ratios of neighbouring runs. Both must find the same loss, or the case is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.cases import CONFIGS, ROOT, SAMPLES, SHAPES, SHIPPED, Case, write_folder
from tlora_ref.machine import KERNEL_VARIABLE, faster_kernel

#: Ours / torch, at most: (where the CPU has AVX-512, anywhere). Keys: (row, at least so many tokens), largest first.
TARGETS = {
    ("forward", 512): (0.55, 0.85),
    ("train step", 512): (0.45, 0.70),
    ("train step", 64): (0.55, 0.70),
    ("calibration", 64): (0.50, 0.70),
    ("initialisation", 0): (0.50, 0.50),
    ("decode", 0): (1 / 3, 1 / 2.5),
}
PEAK_TARGET = 0.45  # training, 2x256


class Worker:
    """One side of a case, in its own process."""

    def __init__(self, side: str, case: Case, folder: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.worker", side, case.to_json(), str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )

    def listen(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a benchmark process ended early: {self.process.args}")
        return json.loads(line)

    def run(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.listen()

    def finish(self) -> float:
        """Ends the process: its peak memory in bytes."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        peak = self.listen()["peak_bytes"]
        self.process.wait()
        return peak


def measure(case: Case, folder: Path, pairs: int, seconds: float, environment: dict[str, str]) -> dict[str, Any]:
    """Both sides in turn: the times, the ratio with its quartiles, the peaks."""
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    workers = {}
    for side in times:  # one after the other: getting ready is heavy too
        workers[side] = Worker(side, case, folder, environment if side == "ours" else {})
        workers[side].listen()
    values: dict[str, float] = {}
    spent = 0.0
    while len(times["torch"]) < 3 or (len(times["torch"]) < pairs and spent < seconds):
        for side, worker in workers.items():
            found = worker.run()
            times[side].append(found["seconds"] / (SAMPLES if case.row == "calibration" else 1))
            values[side] = found["value"]
            spent += found["seconds"]
    if abs(values["ours"] - values["torch"]) > 2e-3 * abs(values["torch"]):
        raise SystemExit(f"{case}: the sides disagree: ours {values['ours']}, torch {values['torch']}")
    ratios = sorted(a / b for a, b in zip(times["ours"], times["torch"], strict=True))
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        **asdict(case),
        "ours_seconds": statistics.median(times["ours"]),
        "torch_seconds": statistics.median(times["torch"]),
        "ratio": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "pairs": len(ratios),
        "ours_peak_bytes": workers["ours"].finish(),
        "torch_peak_bytes": workers["torch"].finish(),
    }


def target(case: Case, fast: bool) -> float | None:
    """The largest ratio that the case may have, None where none is set."""
    if case.model == "tiny":
        return 1.0 if case.row == "train step" else None
    for (row, tokens), limits in TARGETS.items():
        if row == case.row and case.batch * case.tokens >= tokens:
            return limits[0] if fast else limits[1]
    return None


def bare_share(case: Case, folder: Path, environment: dict[str, str], step: float) -> float:
    """The part of a training step that its bare matrix products take, measured in a process of its own."""
    program = (
        "import sys, json; from pathlib import Path; import tlora_ref as tr\n"
        "from tests.benchmarks.cases import Case; from tests.benchmarks.gemms import bare_seconds\n"
        "model = tr.load_model(Path(sys.argv[2]) / 'model', dtype='float32')\n"
        "print(bare_seconds(model, Case(**json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, case.to_json(), str(folder)],
        **{"cwd": ROOT, "env": {**os.environ, **environment}, "capture_output": True, "text": True, "check": True},
    )
    return float(done.stdout) / step


def versions() -> dict[str, str]:
    packages = ("numpy", "scipy", "torch", "transformers", "peft")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def shown(result: dict[str, Any], limit: float | None) -> list[str]:
    """One line of the table."""
    case = Case(*(result[k] for k in ("row", "model", "batch", "tokens")))
    low, high = result["quartiles"]
    return [
        case.model, case.row, case.shape,
        f"{result['ours_seconds'] * 1e3:.1f}", f"{result['torch_seconds'] * 1e3:.1f}",
        f"{result['ratio']:.2f} ({low:.2f}-{high:.2f})",
        "" if limit is None else f"{limit:.2f}{'' if result['ratio'] <= limit else ' MISSED'}",
        f"{result['ours_peak_bytes'] / 2**30:.2f} / {result['torch_peak_bytes'] / 2**30:.2f}",
        f"{result['gemm_share']:.2f}" if "gemm_share" in result else "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--models", nargs="+", default=[*SHIPPED, *CONFIGS], help="tiny, smollm2, or a model's folder")
    parser.add_argument("--shapes", nargs="+", help="only these, as 2x256")
    parser.add_argument("--pairs", type=int, default=15, help="runs of each side, at most")
    parser.add_argument("--seconds", type=float, default=25.0, help="time for a case, about")
    parser.add_argument("--kernel", help="OpenBLAS kernel of ours, Haswell say; otherwise what tlora-ref picks")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    options = parser.parse_args()
    os.environ.pop(KERNEL_VARIABLE, None)
    environment = {KERNEL_VARIABLE: options.kernel} if options.kernel else {}
    fast = faster_kernel() is not None and options.kernel in (None, faster_kernel())
    results = []
    table = Table("model", "row", "shape", "ours ms", "torch ms", "ours / torch", "at most", "peak GiB", "GEMM share")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(name, Path(folder))
            for row in options.rows:
                for batch, tokens in SHAPES[row]:
                    case = Case(row, name, batch, tokens)
                    if options.shapes and case.shape not in options.shapes:
                        continue
                    result = measure(case, Path(folder), options.pairs, options.seconds, environment)
                    if row == "train step":
                        result["gemm_share"] = bare_share(case, Path(folder), environment, result["ours_seconds"])
                    results.append(result)
                    table.add_row(*shown(result, target(case, fast)))
                    print(json.dumps(result), file=sys.stderr, flush=True)
    Console(width=130).print(table)
    facts = {
        "kernel": options.kernel or faster_kernel() or "OpenBLAS's own choice",
        "cores": os.cpu_count(),
        **versions(),
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    if options.out is not None:
        options.out.write_text(json.dumps({**facts, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
