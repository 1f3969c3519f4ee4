"""What a GPU does: `--versions`, `--compare` (every stage against NumPy), `--time` (against NumPy and torch eager).

    python -m tests.gpu.measure --time --models smollm2 llama-1b --out gpu.json

`--device cpu` measures the CPU in the GPU's place, to try this program out where there is none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import tlora_ref as tr
from tests.benchmarks import ours
from tests.benchmarks.cases import CONFIGS, ROOT, SAMPLES, SHIPPED, Case, write_folder
from tlora_ref.backend import get_device
from tlora_ref.data import encode_rows, load_dataset

#: The rows of the benchmarks that are timed here, and how many sequences each is given.
ROWS = {"train step": 2, "calibration": 1, "initialisation": 1}


def versions(device: str) -> dict[str, Any]:
    """Python, the libraries, the device."""
    found = {"python": platform.python_version(), "numpy": np.__version__, "tlora_ref": tr.__version__}
    xp = get_device(device).xp
    if xp is not np:
        properties = xp.cuda.runtime.getDeviceProperties(0)
        found |= {"cupy": xp.__version__, "device": properties["name"].decode()}
    return found


def compare(device: str) -> bool:
    """A golden trace on the CPU and the same run on the device, float64 and float32, by `tr.compare`."""
    model = ROOT / "models" / "tiny-math-llama"
    tokenizer = tr.load_tokenizer(model)
    samples = encode_rows(load_dataset(model / "task"), tokenizer, max_length=256)[0][:4]
    right = True
    with tempfile.TemporaryDirectory() as folder:
        golden = Path(folder) / "golden"
        tr.trace(tr.load_model(model), samples, golden, steps=3)
        for dtype in ("float64", "float32"):
            tr.trace(tr.load_model(model, dtype, device), samples, Path(folder) / dtype, steps=3)
            report = tr.compare(golden, Path(folder) / dtype, checkpoint=model)
            print(f"{dtype} on {device}: {'right' if report.passed else 'WRONG'}")
            for row in report.rows():
                print("  ", *row)
            right = right and report.passed
    return right


def timed(side: ModuleType, case: Case, folder: Path, device: str, repeats: int = 5) -> tuple[float, float]:
    """A case by one side of the benchmarks, the device waited for: median seconds, and the value that it found."""
    work, found = side.prepare(case, folder, device), []
    value = work()  # the first run pays for pages, kernels and plans
    for _ in range(repeats):
        side.wait_for(device)
        begin = time.perf_counter()
        value = work()
        side.wait_for(device)
        found.append(time.perf_counter() - begin)
    return statistics.median(found) / (SAMPLES if case.row == "calibration" else 1), value


def times(model: str, tokens: int, device: str) -> dict[str, dict[str, float]]:
    """{side: {row: seconds}}: ours on the device, torch eager there, ours on the CPU. Prints a line a row."""
    theirs = importlib.import_module("tests.benchmarks.theirs")
    sides = {device: (ours, device), "torch": (theirs, device), "numpy": (ours, "cpu")}
    if model == "llama-1b":  # minutes on a CPU
        del sides["numpy"]
    table: dict[str, dict[str, float]] = {side: {} for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        write_folder(model, Path(folder))
        for row, batch in ROWS.items():
            values = {}
            for side, (code, where) in sides.items():
                case = Case(row, model, batch, tokens)
                table[side][row], values[side] = timed(code, case, Path(folder), where)
            if any(abs(value - values["torch"]) > 2e-3 * abs(values["torch"]) for value in values.values()):
                raise SystemExit(f"{model}, {row}: the sides disagree: {values}")
            print(model, row, {side: f"{found[row] * 1e3:.2f} ms" for side, found in table.items()})
    return table


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"))
    parser.add_argument("--models", nargs="+", default=["smollm2", "llama-1b"], choices=sorted({**CONFIGS, **SHIPPED}))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if given.versions:
        print(json.dumps(versions(given.device)))
    if given.compare and not compare(given.device):
        return 1
    table = {name: times(name, given.tokens, given.device) for name in given.models if given.time}
    if given.out is not None:
        given.out.write_text(json.dumps({"versions": versions(given.device), "seconds": table}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
