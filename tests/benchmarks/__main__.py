"""Ours against torch + transformers + PEFT: the same checkpoint, tokens and trained parameters.

    python -m tests.benchmarks --write                               # all rows, into README.md
    python -m tests.benchmarks --models smollm2 --rows decode        # some of it, kept with what was measured before

Sides: ours with the kernel that the command line asks for ("ours") and with the other of AVX-512 and AVX2 ("other"),
torch eager ("torch"), torch.compile ("compiled", for a forward pass and a training step: getting ready takes it over a
minute). "Bare products" are the row's matrix products alone (see gemms.py), as a share of torch's time: the limit.
Each side of each case has a process of its own; they take turns (ours, torch, ours, torch, ...), and a ratio is the
median of the ratios of neighbouring runs. All must find the same number, or the case is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.cases import CONFIGS, SHAPES, SHIPPED, Case, write_folder
from tests.benchmarks.figures import HEADS, line, merged, write
from tests.benchmarks.turns import OTHER_KERNEL, bare_products, measure
from tlora_ref.machine import CPU_FACTS, KERNEL_VARIABLE, faster_kernel

SIDES = ("ours", "other", "torch", "compiled")


def facts() -> dict[str, Any]:
    """Where and with what it was measured."""
    cpu = "unknown"
    if CPU_FACTS.is_file():
        named = [s for s in CPU_FACTS.read_text(encoding="ascii", errors="replace").splitlines() if "model name" in s]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    packages = ("numpy", "scipy", "torch", "transformers", "peft")
    return {
        "CPU": cpu,
        "cores": os.cpu_count(),
        "kernel": faster_kernel() or "OpenBLAS's own choice",
        **({"other kernel": OTHER_KERNEL} if OTHER_KERNEL else {}),
        "Python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def cases(options: argparse.Namespace) -> dict[str, list[Case]]:
    """What was asked for, by model."""
    asked = {
        name: [Case(row, name, batch, tokens) for row in options.rows for batch, tokens in SHAPES[row]]
        for name in options.models
    }
    return {
        name: [case for case in found if not options.shapes or case.shape in options.shapes]
        for name, found in asked.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--models", nargs="+", default=["smollm2", *SHIPPED], help="tiny, or one of " + str([*CONFIGS]))
    parser.add_argument("--shapes", nargs="+", help="only these, as 2x256")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--turns", type=int, default=15, help="runs of each side, at most")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the runs of a case, about")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"), help="results, kept with those in it")
    parser.add_argument("--write", action="store_true", help="write all results in --out into the README here")
    options = parser.parse_args()
    os.environ.pop(KERNEL_VARIABLE, None)
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {"results": []}
    results, made = known["results"], facts()
    table = Table(*HEADS)
    for name, asked in cases(options).items():
        with tempfile.TemporaryDirectory() as folder:
            if asked:
                write_folder(name, Path(folder))
            for case in asked:
                found = measure(case, Path(folder), options.sides, options.turns, options.seconds)
                if "ours" in options.sides:
                    found["bare_seconds"] = bare_products(case, Path(folder))
                results = merged(results, [found])
                table.add_row(*line(found))
                print(*line(found), sep="  ", flush=True)  # as it comes: a stop loses one case
                options.out.write_text(json.dumps({**made, "results": results}, indent=2) + "\n", encoding="utf-8")
    Console(width=160).print(table)
    if options.write:
        write(made, results)


if __name__ == "__main__":
    main()
