"""Weights held in bfloat16 against float32: one checkpoint in bfloat16, the same work, the same bits.

    python -m tests.benchmarks.hold --out hold.json                 # about two minutes
    python -m tests.benchmarks.hold --side recomputed               # float32, MLPs computed again on the way back

Each side has a process of its own; they take turns, and the ratio of times is the median of neighbouring runs' ratios.
Both must give the very same number, or the case is an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.benchmarks.cases import CONFIGS, PROMPT, Case, write_folder
from tests.benchmarks.turns import Worker

#: (row, batch, tokens, BLAS threads) -> held / float32, at most: peak memory (None where nothing is asked), time. With
#: two threads both halves of a large batch are in memory at once.
CASES: dict[tuple[str, int, int, int], tuple[float | None, float]] = {
    ("train step", 1, 64, 2): (0.65, 1.25),
    ("train step", 2, 256, 1): (0.65, 1.25),
    ("train step", 2, 256, 2): (0.65, 1.25),
    ("forward", 1, 64, 2): (None, 1.25),
    ("decode", 1, PROMPT, 2): (0.60, 1.25),
}
#: A line of what is printed.
LINE = "{:10}  {:6}  {:>7}  {:>7}  {:>10}  {:>4}  {:21}  {:12}  {}"

Run = dict[str, dict[str, float]]


def measure(side: str, case: Case, folder: Path, threads: int, pairs: int, seconds: float) -> dict[str, Any]:
    """`side` and float32 in turn, up to `pairs` times or `seconds`: the medians, the ratios of time and of memory."""
    environment = {"OPENBLAS_NUM_THREADS": str(threads)}
    workers = {name: Worker(name, case, folder, environment) for name in (side, "ours")}
    for worker in workers.values():
        worker.listen()
    runs: list[Run] = []
    while len(runs) < 3 or (len(runs) < pairs and sum(run[name]["seconds"] for run in runs for name in run) < seconds):
        runs.append({name: worker.run() for name, worker in workers.items()})
    for run in runs:
        if run[side]["value"] != run["ours"]["value"]:
            raise SystemExit(f"{case}: {side} gives {run[side]['value']}, float32 {run['ours']['value']}")
    peak = {name: worker.finish() for name, worker in workers.items()}
    return {
        "seconds": {name: statistics.median(run[name]["seconds"] for run in runs) for name in workers},
        "peak_bytes": peak,
        "time": _ratio(runs, side, "seconds"),
        "cpu_time": _ratio(runs, side, "cpu_seconds"),
        "peak": peak[side] / peak["ours"],
        "pairs": len(runs),
    }


def _ratio(runs: list[Run], side: str, what: str) -> float:
    """The median of side / float32 of neighbouring runs."""
    return statistics.median(run[side][what] / run["ours"][what] for run in runs)


def judged(value: float, limit: float | None) -> str:
    return f"{value:.2f}" + ("" if limit is None else f", at most {limit:.2f}{'' if value <= limit else ' MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2", choices=CONFIGS)
    parser.add_argument("--side", default="held", choices=("held", "recomputed"), help="what is measured: / float32")
    parser.add_argument("--rows", nargs="+", help="some of the rows")
    parser.add_argument("--pairs", type=int, default=9, help="runs of each side, at most")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a case, after three runs of each side")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    options = parser.parse_args()
    console, side, results = Console(width=130), options.side, []
    head = ("row", "shape", "threads", "ms", "float32 ms", "CPU", "time", "peak GiB", "peak")
    console.print(LINE.format(*head))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(options.model, Path(folder), "bfloat16")
        for (row, batch, tokens, threads), limits in CASES.items():
            if options.rows and row not in options.rows:
                continue
            case, (peak, time) = Case(row, options.model, batch, tokens), limits if side == "held" else (None, None)
            found = measure(side, case, Path(folder), threads, options.pairs, options.seconds)
            results.append({"row": row, "batch": batch, "tokens": tokens, "threads": threads, **found})
            milliseconds = [f"{found['seconds'][name] * 1e3:.0f}" for name in (side, "ours")]
            gib = ", ".join(f"{found['peak_bytes'][name] / 2**30:.3f}" for name in (side, "ours"))
            ratios = f"{found['cpu_time']:.2f}", judged(found["time"], time), gib, judged(found["peak"], peak)
            console.print(LINE.format(row, case.shape, threads, *milliseconds, *ratios))
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
