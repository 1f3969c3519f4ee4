"""How time and memory grow: with tokens, layers, width, rank, calibration samples, vocabulary.

    python -m tests.benchmarks.growth --out growth.json --plot growth.svg     # about four minutes

One quantity changes, the others stay at those of BASE; every point is measured in a process of its own. From the
points comes a law (least squares with coefficients of at least 0) and, between the last two points, how often time
doubles when the quantity does: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tlora_ref.machine import prepare

if __name__ == "__main__":
    prepare()

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import nnls

import tlora_ref as tr
from tests.benchmarks.cases import ROOT, random_adapter, random_model
from tests.benchmarks.ours import train_step
from tests.benchmarks.worker import peak_memory

COLOURS = {"train step": "C0", "calibration": "C1"}
BASE = {"tokens": 256, "layers": 4, "width": 256, "rank": 16, "samples": 4, "vocabulary": 4096}
POINTS = {
    "tokens": [64, 128, 256, 512, 1024, 2048],
    "layers": [2, 4, 8, 16, 32],
    "width": [128, 256, 512, 1024],
    "rank": [4, 8, 16, 32, 64],
    "samples": [4, 8, 16, 32],
    "vocabulary": [2048, 8192, 32768, 131072],
}
#: The powers of the quantity that time is made of: attention is quadratic in tokens, weights are in width.
POWERS = {"tokens": (1, 2), "layers": (0, 1), "width": (1, 2), "rank": (0, 1), "samples": (0, 1), "vocabulary": (0, 1)}


def build(point: dict[str, int]) -> Any:
    """A random float32 Llama of this size."""
    width, heads = point["width"], max(1, point["width"] // 64)
    return random_model(
        {
            **{"model_type": "llama", "hidden_size": width, "intermediate_size": 3 * width},
            **{"num_hidden_layers": point["layers"], "vocab_size": point["vocabulary"], "tie_word_embeddings": True},
            **{"num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": min(64, width)},
            "max_position_embeddings": max(4096, point["tokens"]),
        }
    )


def timed(work: Any, least: float = 1.0) -> float:
    """Median seconds of a run, after one that does not count."""
    work()
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < least:
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(point: dict[str, int], what: str) -> dict[str, float]:
    """Seconds of a training step, or of calibrating on all samples; and the peak beyond the model, in bytes."""
    model = build(point)
    ids = np.random.default_rng(1).integers(0, point["vocabulary"], (point["samples"], point["tokens"]))
    if what == "train step":
        adapter = random_adapter(model, point["rank"])
        work = train_step(model, adapter, ids[:1])
    else:
        samples = [{"input_ids": row, "labels": row} for row in ids]
        work = lambda: tr.calibrate(model, samples).samples  # noqa: E731
    before = peak_memory()
    return {"seconds": timed(work), "bytes": peak_memory() - before}


def in_a_process(point: dict[str, int], what: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.growth", "--one", json.dumps(point), "--what", what]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def law(x: list[int], y: list[float], powers: tuple[int, ...]) -> list[float]:
    """Coefficients of the powers, each at least 0, smallest relative error."""
    rows = np.array([[value**p / found for p in powers] for value, found in zip(x, y, strict=True)])
    size = np.abs(rows).max(axis=0)
    return (nnls(rows / size, np.ones(len(x)))[0] / size).tolist()


def doubling(x: list[int], y: list[float]) -> float:
    """log2 of what y is multiplied by when x doubles, over the last two points."""
    return math.log(max(y[-1], 1e-12) / max(y[-2], 1e-12)) / math.log(x[-1] / x[-2])


def plot(results: dict[str, Any], path: Path) -> None:
    """Time and memory against every quantity, on axes of powers of two."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "growth"
    figure, axes = plt.subplots(2, len(results), figsize=(3 * len(results), 5.2), sharey="row", layout="constrained")
    for column, (quantity, found) in zip(axes.T, results.items(), strict=True):
        for what, series in found.items():
            for axis, key, unit in ((column[0], "seconds", 1.0), (column[1], "bytes", 2**20)):
                axis.plot(
                    series["x"], [value / unit for value in series[key]], color=COLOURS[what], marker="o", label=what
                )
                axis.set_xscale("log", base=2)
                axis.set_yscale("log", base=2)
                axis.grid(alpha=0.3)
        column[1].set_xlabel(quantity)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("MiB beyond the model")
    axes[0, 0].legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quantities", nargs="+", choices=POINTS, default=list(POINTS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--what", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(json.loads(options.one), options.what)))
        return
    results: dict[str, Any] = {}
    table = Table(
        "quantity", "what", "points", "seconds", "law of seconds", "doubling", "MiB beyond the model", "doubling"
    )
    for quantity in options.quantities:
        for what in ("train step", "calibration"):
            if (quantity, what) in (("rank", "calibration"), ("samples", "train step")):
                continue
            points = POINTS[quantity]
            found = [in_a_process({**BASE, quantity: value}, what) for value in points]
            seconds, held = ([one[key] for one in found] for key in ("seconds", "bytes"))
            coefficients = law(points, seconds, POWERS[quantity])
            series = {"x": points, "seconds": seconds, "bytes": held, "powers": POWERS[quantity], "law": coefficients}
            results.setdefault(quantity, {})[what] = series
            terms = " + ".join(f"{c:.3g} n^{p}" for c, p in zip(coefficients, POWERS[quantity], strict=True))
            table.add_row(
                quantity, what, f"{points[0]} to {points[-1]}", " ".join(f"{s:.3f}" for s in seconds), terms,
                f"{doubling(points, seconds):.2f}", " ".join(f"{b / 2**20:.0f}" for b in held),
                f"{doubling(points, held):.2f}",
            )  # fmt: skip
            print(quantity, what, seconds, [round(b / 2**20) for b in held], file=sys.stderr, flush=True)
    Console(width=180).print(table)
    if options.out is not None:
        options.out.write_text(json.dumps({"base": BASE, "results": results}, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
