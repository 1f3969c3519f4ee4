"""Mutation testing: every operator and number of the method and of the oracle's comparison, changed one at a time.

    pip install cosmic-ray coverage
    python -m tests.mutation method                                   # all mutants of a target
    python -m tests.mutation comparison --sample 200                  # some, drawn with --seed
    python -m tests.mutation comparison --keep FOLDER --patience 4    # all; a run that is stopped goes on
    python -m tests.mutation comparison --keep FOLDER --table         # what such runs have decided so far

A mutant is killed when the target's tests fail, or one of them does not end ("endless"). What survives is printed as
a diff line and wants a sharper test, or a reason (equivalent.py) why no test can tell. What is mutated is said in
mutants.py, how the tests are run in runner.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import cache_from_source
from pathlib import Path
from queue import Queue
from typing import Any

from tests.mutation.equivalent import equivalent
from tests.mutation.mutants import ROOT, Mutant, mutants_of
from tests.mutation.runner import ENDLESS, EQUIVALENT, KILLED, SURVIVED

PACKAGE = ROOT / "tlora_ref"

#: What is mutated, and the tests that must notice, the quickest first.
TARGETS: dict[str, tuple[str, str]] = {
    "method": (
        "method/*.py algorithm.py calibration/blocked.py",
        "tests/method tests/calibration/test_blocked.py tests/training tests/calibration/test_calibrate.py",
    ),
    "comparison": (
        "oracle/stages/*.py oracle/compare.py oracle/judge.py oracle/order.py oracle/precision.py oracle/verdict.py "
        "oracle/traces/replay.py",
        "tests/oracle/stages tests/oracle/test_precision.py tests/oracle/test_like_with_like.py "
        "tests/oracle/test_compare.py tests/oracle/test_causes.py tests/oracle/test_gallery.py "
        "tests/oracle/test_ablations.py tests/oracle/kit/test_vectors.py tests/oracle/traces "
        "tests/models/test_golden.py tests/oracle/kit/test_kit.py",
    ),
}
#: In a table, of mutants that no run has tried.
UNTRIED = "untried"


class House:
    """A copy of the repository in which one mutant at a time lives, with a process that has its tests collected.

    kept : a folder for what is known of the tests, which the next house takes from there
    patience : seconds of tests for a mutant
    digest : of all that it holds
    """

    def __init__(self, folder: Path, tests: list[str], mutated: list[str], kept: Path, patience: float | None) -> None:
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        digest = hashlib.sha256(" ".join([*tests, *mutated, str(patience)]).encode())
        for name in filter(None, files.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
            if not name.startswith("tests/mutation/"):
                digest.update(name.encode() + (folder / name).read_bytes())
        env = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        where: dict[str, Any] = {"cwd": folder, "env": {**os.environ, **env}, "text": True}
        subprocess.run([sys.executable, "-m", "compileall", "-q", "tlora_ref", "tests"], **where, check=True)
        # No bytecode of what is mutated: a mutant of the same size and second as the original would be taken for it.
        for path in mutated:
            Path(cache_from_source(str(folder / path))).unlink()
        where["env"]["PYTHONDONTWRITEBYTECODE"] = "1"
        self.digest = digest.hexdigest()[:16]
        known = kept.resolve() / f"tests-{self.digest}.jsonl"
        own = [str(known), "" if patience is None else str(patience), *mutated]
        command = [sys.executable, "-m", "tests.mutation.runner", *own, "--", *tests]
        self.loaded = subprocess.Popen(command, **where, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        failed = json.loads(self._answer())
        if failed:
            raise SystemExit(f"the tests fail without a mutant: {', '.join(failed)}")

    def _answer(self) -> str:
        assert self.loaded.stdout is not None
        if not (line := self.loaded.stdout.readline()):
            raise SystemExit(f"the process that has the tests has ended ({self.loaded.wait()})")
        return line.strip()

    def verdict(self, mutant: Mutant) -> str:
        """Whether the tests pass with it: one of the runner's answers."""
        assert self.loaded.stdin is not None
        request = {"path": mutant.path, "function": mutant.function, "lines": mutant.lines, "source": mutant.source()}
        self.loaded.stdin.write(json.dumps(request) + "\n")
        self.loaded.stdin.flush()
        return self._answer()


class Verdicts:
    """Those of a run that was stopped. A kill holds for as long as the mutated file is as it was, the rest until
    anything changes: a survivor is tried again when there are other tests."""

    def __init__(self, path: Path, house: House) -> None:
        self.path, self.digest = path, house.digest
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        self.known = {each["name"]: each["verdict"] for each in found if self.holds(each)}

    def holds(self, each: dict[str, str]) -> bool:
        return each["verdict"] != SURVIVED or each["digest"] == self.digest

    def add(self, mutant: Mutant, verdict: str, seconds: float) -> None:
        each = {"name": mutant.name, "verdict": verdict, "digest": self.digest, "seconds": round(seconds, 2)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(each) + "\n")


def verdicts(
    mutants: list[Mutant], mutated: list[str], tests: list[str], workers: int, kept: Path, patience: float | None
) -> Iterator[str]:
    """The verdict of every mutant, in order."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as threads:
        houses: Queue[House] = Queue()
        for number in range(workers):
            house = House(Path(folder) / str(number), tests, mutated, kept, patience)
            houses.put(house)
        known = Verdicts(kept / "verdicts.jsonl", house)

        def tried(mutant: Mutant) -> str:
            if mutant.name in known.known:
                return str(known.known[mutant.name])
            house, begun = houses.get(), time.monotonic()
            try:
                verdict = house.verdict(mutant)
            finally:
                houses.put(house)
            known.add(mutant, verdict, time.monotonic() - begun)
            return verdict

        yield from threads.map(tried, mutants)


def decided(kept: Path, mutants: list[Mutant]) -> Iterator[str]:
    """What the runs of this folder have found, the last of them first, and nothing is run."""
    lines = (kept / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()
    found = {each["name"]: each["verdict"] for each in map(json.loads, lines)}
    return (found.get(mutant.name, UNTRIED) for mutant in mutants)


def counted(mutants: list[Mutant], found: Iterator[str]) -> dict[str, Counter[str]]:
    """How many of each file were killed and so on; what survived is printed."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for done, (mutant, verdict) in enumerate(zip(mutants, found, strict=True), start=1):
        line = mutant.changed_line() if verdict == SURVIVED else ""
        reason = equivalent(mutant.path, line) if line else None
        counts[mutant.path][EQUIVALENT if reason else verdict] += 1
        if line:
            said = f"  (equivalent: {reason})" if reason else ""
            print(f"[{done}] survived: {mutant.path}:{mutant.line}: {line}{said}", flush=True)
        elif done % 20 == 0 and verdict != UNTRIED:
            print(f"[{done}]", flush=True)
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    """What became of the mutants of each file, and of all."""
    columns = (KILLED, ENDLESS, EQUIVALENT, SURVIVED, UNTRIED)
    rows = [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]
    head = f"{'file':40} {'mutants':>8}" + "".join(f" {name:>10}" for name in columns)
    body = [f"{name:40} {n.total():8}" + "".join(f" {n[column]:10}" for column in columns) for name, n in rows]
    return "\n".join([head, *body])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--only", default="", help="files in whose path this regular expression is found")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--patience", type=float, help="seconds of tests; a mutant that lives so long has survived")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the verdicts: a run that is stopped goes on")
    parser.add_argument("--table", action="store_true", help="of the verdicts that are kept; nothing is run")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    patterns, tests = TARGETS[options.target]
    files = sorted(path for pattern in patterns.split() for path in PACKAGE.glob(pattern))
    mutants = [m for path in files if re.search(options.only, str(path)) for m in mutants_of(path)]
    total = len(mutants)
    if options.sample:
        mutants = random.Random(options.seed).sample(mutants, min(total, options.sample))
    mutants.sort(key=lambda mutant: mutant.function is None)  # those for which all is imported again come last
    print(f"{options.target}: {total} mutants, {len(mutants)} of them tried", flush=True)
    mutated = [str(path.relative_to(ROOT)) for path in files]
    with tempfile.TemporaryDirectory() as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        run = verdicts(mutants, mutated, tests.split(), options.workers, kept, options.patience)
        counts = counted(mutants, decided(kept, mutants) if options.table else run)
    whole = sum(counts.values(), Counter[str]())
    killed = whole[KILLED] + whole[ENDLESS]
    share = killed / max(1, killed + whole[SURVIVED])
    print(table(counts), f"{share:.1%} of what a test can tell", sep="\n")
    raise SystemExit(1 if share < 0.95 else 0)


if __name__ == "__main__":
    main()
