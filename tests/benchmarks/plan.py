"""What `tlora-ref plan` says of a run against what `tlora-ref train` then takes, on this machine:

    python -m tests.benchmarks.plan MODEL --data DATA --steps 10 --batch-size 4

Every flag must be one that both commands have. The parts are timed inside the command, in a process of its own.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(words: list[str]) -> None:
    began = time.perf_counter()
    plan = json.loads(_output([sys.executable, "-m", "tlora_ref", "plan", *words, "--json"]))["run"]
    print(f"{words[0]}: planned in {time.perf_counter() - began:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _output([sys.executable, "-m", "tests.benchmarks.plan", "taken", folder, *words, "--out", f"{folder}/run"])
        wall = time.perf_counter() - began
        took = json.loads(Path(folder, "took.json").read_text(encoding="utf-8"))
    parts = {name: sum(times) for name, times in took["seconds"].items()}
    step = statistics.mean(took["seconds"]["step"])
    planned = plan["seconds"]
    lines = [(name, planned[name], parts[name], "s") for name in ("calibration", "initialisation")]
    lines.append(("a step", planned["step"], step, "s"))
    if took["seconds"]["evaluation"]:
        lines.append(("an evaluation", planned["evaluation"], statistics.mean(took["seconds"]["evaluation"]), "s"))
    lines.append(("all parts", plan["total_seconds"], sum(parts.values()), "s"))
    lines.append(("the command", plan["total_seconds"], wall, "s"))
    lines.append(("peak", plan["peak"] / 1e6, took["peak_bytes"] / 1e6, "MB"))
    for name, before, after, unit in lines:
        print(f"  {name:16} planned {before:10.3f} {unit:2}  taken {after:10.3f} {unit:2}  ratio {before / after:.2f}")


def taken(folder: str, words: list[str]) -> None:
    """Runs `train` and writes what its parts took into `folder`."""
    from tlora_ref import machine

    machine.prepare()  # before NumPy
    import tlora_ref as tr
    from tlora_ref.cli.main import main
    from tlora_ref.training import loop

    seconds: dict[str, list[float]] = {name: [] for name in ("calibration", "initialisation", "step", "evaluation")}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = work(*arguments, **options)
            seconds[name].append(time.perf_counter() - began)
            return found

        return run

    for place, function, name in (
        (tr, "calibrate_for", "calibration"),
        (tr, "make_adapter", "initialisation"),
        (tr, "evaluate", "evaluation"),
        (loop, "evaluate", "evaluation"),
        (loop, "_step", "step"),
    ):
        setattr(place, function, timed(name, getattr(place, function)))
    try:
        main(["train", *words])
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found = {"seconds": seconds, "peak_bytes": peak}
        Path(folder, "took.json").write_text(json.dumps(found), encoding="utf-8")


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    if sys.argv[1] == "taken":
        taken(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:])
