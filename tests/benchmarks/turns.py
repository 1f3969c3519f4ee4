"""The sides of a case, each in a process of its own, taking turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import COMPILED, ROOT, SAMPLES, Case
from tlora_ref.machine import AVX512_FLAGS, KERNEL_VARIABLE, cpu_flags

#: OpenBLAS's AVX2 kernel, on CPUs that have AVX-512 too.
OTHER_KERNEL = "Haswell" if cpu_flags() >= AVX512_FLAGS else None
#: Losses, sums of singular values, sums of greedy tokens: how far two sides may be apart, relatively.
AGREE = 2e-3
#: Seconds before each run: threads of the side before still look for work a while after its answer (OpenBLAS's own a
#: tenth of a second), and would take a core from this one.
REST = 0.3


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


def sides_of(case: Case, wanted: list[str]) -> dict[str, tuple[str, dict[str, str]]]:
    """{side: (the worker's side, its environment)}: "other" with two kernels alone, "compiled" for COMPILED rows."""
    sides = {
        "ours": ("ours", {}),
        "other": ("ours", {KERNEL_VARIABLE: OTHER_KERNEL} if OTHER_KERNEL else {}),
        "torch": ("torch", {}),
        "compiled": ("compiled", {}),
    }
    left_out = set() if OTHER_KERNEL else {"other"}
    if (case.row, case.batch, case.tokens) not in COMPILED:
        left_out.add("compiled")
    return {side: sides[side] for side in sides if side in wanted and side not in left_out}


def measure(case: Case, folder: Path, wanted: list[str], turns: int, seconds: float) -> dict[str, Any]:
    """All sides in turn: median times, peaks, and for each pair of sides the ratio's median and quartiles."""
    workers, ready = {}, {}
    for side, (kind, environment) in sides_of(case, wanted).items():  # one after the other: getting ready is heavy too
        workers[side] = Worker(kind, case, folder, environment)
        ready[side] = workers[side].listen()["ready"]
    times: dict[str, list[float]] = {side: [] for side in workers}
    values: dict[str, float] = {}
    spent, done = 0.0, 0
    while done < 3 or (done < turns and spent < seconds):
        for side, worker in workers.items():
            time.sleep(REST)
            found = worker.run()
            times[side].append(found["seconds"] / (SAMPLES if case.row == "calibration" else 1))
            values[side] = found["value"]
            spent += found["seconds"]
        done += 1
    if any(abs(value - values["ours"]) > AGREE * abs(values["ours"]) for value in values.values()):
        raise SystemExit(f"{case}: the sides disagree: {values}")
    pairs = [(a, b) for a in ("ours", "other", "compiled") for b in ("torch", "compiled") if a != b]
    return {
        **asdict(case),
        "turns": done,
        "seconds": {side: statistics.median(found) for side, found in times.items()},
        "ready_seconds": ready,
        "ratios": {f"{a} / {b}": _ratio(times[a], times[b]) for a, b in pairs if a in times and b in times},
        "peak_bytes": {side: worker.finish() for side, worker in workers.items()},
    }


def _ratio(first: list[float], second: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"median": statistics.median(ratios), "low": low, "high": high}


def bare_products(case: Case, folder: Path) -> float:
    """Seconds of a row's bare matrix products, measured in a process of its own."""
    program = (
        "import tlora_ref.machine; tlora_ref.machine.prepare()\n"
        "import sys, json; from pathlib import Path; import tlora_ref as tr\n"
        "from tests.benchmarks.cases import Case; from tests.benchmarks.gemms import bare_seconds\n"
        "model = tr.load_model(Path(sys.argv[2]) / 'model', dtype='float32')\n"
        "print(bare_seconds(model, Case(**json.loads(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, case.to_json(), str(folder)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "check": True},
    )
    return float(done.stdout)
