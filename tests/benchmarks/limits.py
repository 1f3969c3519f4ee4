"""Long and large: whether time and memory at a limit are what smaller sizes foretell.

    python -m tests.benchmarks.limits            # all of it; minutes
    python -m tests.benchmarks.limits --cases rank layers --rounds 3

In a case one quantity grows to its limit; the others stay at those of `growth`. Its smaller points give a law, as in
the table of growth, which foretells the largest one; SLACK times that is allowed. Every point has a process of its own,
and the points take turns, the least time of all rounds being taken: other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlora_ref.machine import prepare

if __name__ == "__main__":
    prepare()

import numpy as np
from rich.console import Console
from rich.table import Table

import tlora_ref as tr
from tests.benchmarks.cases import ROOT, random_adapter
from tests.benchmarks.growth import BASE, POWERS, build, law
from tests.benchmarks.ours import train_step
from tests.benchmarks.worker import peak_memory
from tests.tiny import tiny_llama
from tlora_ref.data import encode_rows, load_dataset

Work = Callable[[], Any]
#: How often the foretold is allowed, and the megabytes below which a process's memory says nothing.
SLACK, NOISE = 1.5, 8.0
SHIPPED = ROOT / "models" / "tiny-math-llama"


@dataclass(frozen=True)
class Case:
    """A quantity's smaller points and its limit; `base` replaces some of `growth`'s other quantities."""

    quantity: str
    points: tuple[int, ...]
    limit: int
    whats: tuple[str, ...] = ("train step", "calibration")
    base: dict[str, int] = field(default_factory=dict)

    def point(self, value: int) -> dict[str, int]:
        return {**BASE, **self.base, self.quantity: value}


CASES = {
    "context": Case("tokens", (1024, 2048, 4096), 8192, base={"samples": 1}),
    "vocabulary": Case("vocabulary", (8192, 32768, 65536), 262_144),
    "layers": Case("layers", (25, 50, 100), 200, base={"width": 8}),
    "rank": Case("rank", (16, 32, 64), 256, ("train step", "initialisation")),
    "rows": Case("rows", (1000, 2000, 4000), 10_000, ("reading", "calibration of rows", "evaluation", "training")),
}


def rows_of(n: int) -> list[dict[str, Any]]:
    """Samples of 16 tokens for the tiniest of models."""
    ids = np.random.default_rng(1).integers(0, 31, (n, 16)).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


def reading(n: int, folder: Path) -> Work:
    """A file of so many prompts with completions, to samples."""
    lines = [json.dumps({"prompt": f"How much is {i} and {i + 1}?", "completion": f"{2 * i + 1}."}) for i in range(n)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    tokenizer = tr.load_tokenizer(SHIPPED)
    return lambda: encode_rows(load_dataset(folder / "rows.jsonl"), tokenizer, max_length=64)


def of_rows(what: str, n: int) -> Work:
    """Work on so many samples, by a model of two layers of width 16; training is three steps."""
    model, samples = tiny_llama(dtype="float32"), rows_of(n)
    if what == "calibration of rows":
        return lambda: tr.calibrate(model, samples)
    if what == "evaluation":
        return lambda: tr.evaluate(model, samples)
    adapter = random_adapter(model, 2)
    return lambda: tr.train(model, adapter, samples, steps=3, batch_size=4)


def prepared(what: str, point: dict[str, int], folder: Path) -> Work:
    """What is measured, to be called again and again."""
    if what == "reading":
        return reading(point["rows"], folder)
    if "rows" in point:
        return of_rows(what, point["rows"])
    model = build(point)
    ids = np.random.default_rng(1).integers(0, point["vocabulary"], (point["samples"], point["tokens"]))
    if what == "train step":
        return train_step(model, random_adapter(model, point["rank"]), ids[:1])
    samples = [{"input_ids": row, "labels": row} for row in ids]
    if what == "calibration":
        return lambda: tr.calibrate(model, samples).samples
    stats = tr.calibrate(model, samples[:1])
    plan = tr.allocate(stats.sensitivity, stats.shapes, point["rank"], point["rank"])
    return lambda: tr.initialize(model, stats, plan)


def measure(what: str, point: dict[str, int]) -> dict[str, float]:
    """Seconds of this process's CPU (the least of runs that fill a second, after one that does not count), and
    megabytes beyond what was there before."""
    with tempfile.TemporaryDirectory() as folder:
        work = prepared(what, point, Path(folder))
        before = peak_memory()
        work()
        seconds: list[float] = []
        while len(seconds) < 2 or sum(seconds) < 1.0:
            begin = time.process_time()
            work()
            seconds.append(time.process_time() - begin)
        return {"seconds": min(seconds), "MB": (peak_memory() - before) / 1e6}


def in_a_process(what: str, point: dict[str, int]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.limits", "--one", json.dumps(point), "--what", what]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # CPU time of one thread is work, not waiting
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env=environment)
    return json.loads(ran.stdout)


def foretold(case: Case, found: list[float]) -> float:
    """What the law of the smaller points makes of the limit."""
    powers = POWERS.get(case.quantity, (0, 1))
    coefficients = law(list(case.points), [max(value, 1e-9) for value in found], powers)
    return sum(c * case.limit**p for c, p in zip(coefficients, powers, strict=True))


def held(case: Case, what: str, rounds: int) -> dict[str, tuple[float, float]]:
    """{"seconds" and "MB": (at the limit, foretold)}."""
    values = [*case.points, case.limit]
    found = [[in_a_process(what, case.point(value)) for value in values] for _ in range(rounds)]
    least = {unit: [min(turn[i][unit] for turn in found) for i in range(len(values))] for unit in ("seconds", "MB")}
    print(case.quantity, what, values, least, file=sys.stderr, flush=True)
    return {unit: (least[unit][-1], foretold(case, least[unit][:-1])) for unit in least}


def main() -> int:
    """The exit status is 1 if anything is beyond what was foretold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.what, json.loads(given.one))))
        return 0
    table = Table("quantity", "limit", "what", "CPU s", "foretold", "ratio", "MB", "foretold", "ratio")
    beyond = False
    for name in given.cases:
        case = CASES[name]
        for what in case.whats:
            cells = [case.quantity, f"{case.limit:,}", what]
            for unit, (value, expected) in held(case, what, given.rounds).items():
                floor = NOISE if unit == "MB" else 0.0
                ratio = value / max(expected, floor)
                beyond = beyond or ratio > SLACK
                cells += [f"{value:.3g}", f"{expected:.3g}", f"{ratio:.2f}{' !' if ratio > SLACK else ''}"]
            table.add_row(*cells)
    Console(width=140).print(table)
    return int(beyond)


if __name__ == "__main__":
    sys.exit(main())
