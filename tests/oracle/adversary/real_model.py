"""Right runs of a real model: example 02, unchanged, held against golden traces on sets of rows.

    python -m tests.oracle.adversary.real_model MODEL ROWS           # three sets of four rows, float32 and bfloat16
    python -m tests.oracle.adversary.real_model MODEL ROWS --set 1   # the second set alone

MODEL is a folder with a real checkpoint (SmolLM2-135M, say), ROWS a JSON Lines file with `question` and `answer`
(GSM8K). Every command is called as its user calls it. Needs torch, transformers and peft; minutes a run, 4 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = "examples/02_record_from_peft.py"
FIELDS = ("--field", "prompt=question", "--field", "completion=answer", "--template", "question")
BUDGET = ("--rank", "4", "--alpha", "4", "--steps", "2")
PRECISIONS = ("float32", "bfloat16")
ROWS_A_SET = 4


def call(*arguments: object, allowed: Sequence[int] = (0,)) -> int:
    """A Python command from the repository's root; its status, which must be one of `allowed`."""
    status = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=False).returncode
    if status not in allowed:
        raise SystemExit(f"{' '.join(map(str, arguments))}: exit status {status}")
    return status


def judged(model: Path, rows: list[str], folder: Path) -> Iterator[tuple[str, bool, str]]:
    """(precision, whether it was called right, the verdict in a line) of a golden trace's candidates."""
    data, golden, candidate, report = (folder / name for name in ("rows.jsonl", "golden", "candidate", "report.json"))
    data.write_text("".join(rows), encoding="utf-8")
    call("-m", "tlora_ref", "trace", model, "--data", data, *FIELDS, *BUDGET, "--out", golden)
    for precision in PRECISIONS:
        call(EXAMPLE, model, golden, candidate, "--dtype", precision)
        verify = ("-m", "tlora_ref", "verify", golden, candidate, "--checkpoint", model)
        status = call(*verify, "--report", report, allowed=(0, 1))
        yield precision, status == 0, json.loads(report.read_text(encoding="utf-8"))["headline"]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--set", type=int, help="this one alone, counted from 0")
    given = parser.parse_args(arguments)
    lines = given.rows.read_text(encoding="utf-8").splitlines(keepends=True)
    told, alarms = [], 0
    for number in range(given.sets) if given.set is None else (given.set,):
        rows = lines[number * ROWS_A_SET : (number + 1) * ROWS_A_SET]
        with tempfile.TemporaryDirectory() as folder:
            for precision, right, headline in judged(given.model.resolve(), rows, Path(folder)):
                told.append(f"set {number}, {precision}: {headline}")
                alarms += not right
    print(*told, f"{alarms} false alarms in {len(told)} runs of {given.model.name}", sep="\n")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
