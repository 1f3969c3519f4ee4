"""Weights held in bfloat16 against float32: one checkpoint in bfloat16, the same work, the same bits.

    python -m tests.benchmarks.hold --out hold.json                 # about two minutes

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
from rich.table import Table

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


def measure(case: Case, folder: Path, threads: int, pairs: int, seconds: float) -> dict[str, Any]:
    """Both sides in turn, up to `pairs` times or `seconds`: the medians, the ratios of time and of peak memory."""
    environment = {"OPENBLAS_NUM_THREADS": str(threads)}
    workers = {side: Worker(side, case, folder, environment) for side in ("held", "ours")}
    for worker in workers.values():
        worker.listen()
    runs: list[dict[str, dict[str, float]]] = []
    while len(runs) < 3 or (len(runs) < pairs and sum(run[s]["seconds"] for run in runs for s in run) < seconds):
        runs.append({side: worker.run() for side, worker in workers.items()})
    if any(run["held"]["value"] != run["ours"]["value"] for run in runs):
        raise SystemExit(
            f"{case}: held in bfloat16 gives {runs[0]['held']['value']}, float32 {runs[0]['ours']['value']}"
        )
    peak = {side: worker.finish() for side, worker in workers.items()}
    return {
        **{f"{side}_seconds": statistics.median(run[side]["seconds"] for run in runs) for side in workers},
        "time": statistics.median(run["held"]["seconds"] / run["ours"]["seconds"] for run in runs),
        **{f"{side}_peak_bytes": bytes_ for side, bytes_ in peak.items()},
        "peak": peak["held"] / peak["ours"],
        "pairs": len(runs),
    }


def judged(value: float, limit: float | None) -> str:
    return f"{value:.2f}" + ("" if limit is None else f", at most {limit:.2f}{'' if value <= limit else ' MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2", choices=CONFIGS)
    parser.add_argument("--pairs", type=int, default=9, help="runs of each side, at most")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a case, after three runs of each side")
    parser.add_argument("--rows", nargs="+", help="some of the rows")
    parser.add_argument("--out", type=Path, help="where to write everything as JSON")
    options = parser.parse_args()
    table = Table("row", "shape", "threads", "held ms", "float32 ms", "time", "held GiB", "float32 GiB", "peak")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_folder(options.model, Path(folder), "bfloat16")
        for (row, batch, tokens, threads), (peak, time) in CASES.items():
            if options.rows and row not in options.rows:
                continue
            case = Case(row, options.model, batch, tokens)
            found = measure(case, Path(folder), threads, options.pairs, options.seconds)
            results.append({"row": row, "batch": batch, "tokens": tokens, "threads": threads, **found})
            times = [f"{found[f'{side}_seconds'] * 1e3:.1f}" for side in ("held", "ours")]
            peaks = [f"{found[f'{side}_peak_bytes'] / 2**30:.3f}" for side in ("held", "ours")]
            said = judged(found["time"], time), *peaks, judged(found["peak"], peak)
            table.add_row(row, case.shape, str(threads), *times, *said)
    Console(width=130).print(table)
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
