"""Mutation testing: every operator and number of the method and of the oracle's comparison, changed one at a time.

    pip install cosmic-ray
    python -m tests.mutation method                     # all mutants of a target; hours for the larger ones
    python -m tests.mutation comparison --sample 200    # some, drawn with --seed
    python -m tests.mutation method --keep FOLDER       # a run that is stopped goes on

A mutant is killed when the target's tests fail, or one of them does not end ("endless"). What survives is printed as
a diff line and wants a sharper test, or a reason (equivalent.py) why no test can tell. Left out are type annotations,
docstrings, the wording of errors and reports, and the tables that choose a likely cause (the gallery holds those).
"""

from __future__ import annotations

import argparse
import ast
import difflib
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
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation.equivalent import equivalent
from tests.mutation.runner import ENDLESS, KILLED, SURVIVED, UNKNOWN

ROOT = Path(__file__).resolve().parents[2]
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
        "tests/oracle/stages tests/oracle/test_compare.py tests/oracle/test_gallery.py "
        "tests/oracle/kit/test_vectors.py tests/oracle/traces tests/models/test_golden.py tests/oracle/kit/test_kit.py",
    ),
}
#: Operators that say nothing here: they replace names at random, exceptions by ones of their own, or equality by
#: identity and back, which for the small numbers, interned texts and None that are compared here is the same.
SILENT = (
    "VariableReplacer",
    "VariableInserter",
    "ExceptionReplacer",
    "_Eq_Is",
    "_NotEq_IsNot",
    "_Is_Eq",
    "IsNot_NotEq",
)
#: As pytest is called. A single test that runs for two minutes hangs: the mutant made a loop endless.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-m", "not parity")
HANGS = ("-x", "-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true")

#: Beside the runner's verdicts: survived, and no test can tell.
EQUIVALENT = "equivalent"

Span = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: str
    text: str  # of the file, as it was when the run began: the working tree may change meanwhile
    operator: str
    occurrence: int
    line: int

    @property
    def function(self) -> str | None:
        """The function of the module, or of a class of it, in whose body it is."""
        tree = ast.parse(self.text)
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        inside = [(f"{node.name}.", f) for node in classes for f in node.body] + [("", node) for node in tree.body]
        functions = [(prefix, node) for prefix, node in inside if isinstance(node, ast.FunctionDef)]
        found = [f"{prefix}{f.name}" for prefix, f in functions if f.body[0].lineno <= self.line <= (f.end_lineno or 0)]
        return found[0] if found else None

    @property
    def name(self) -> str:
        """Another one when its file changes."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        return f"{self.path} {digest} {self.operator} {self.occurrence}"

    def source(self) -> str:
        return str(mutate_code(self.text, get_operator(self.operator)(), self.occurrence))


def wording(tree: ast.AST) -> list[Span]:
    """Where signatures, texts, raised errors and the tables of likely causes (text, what it would give) stand."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        cause = isinstance(node, ast.Tuple) and len(node.elts) == 2 and _is_text(node.elts[0])
        if _is_text(node) or cause or isinstance(node, ast.Raise):
            found.append(node)
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            found.append(node.annotation)
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            found.append(node.returns)
    spans = [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found]  # type: ignore[attr-defined]
    # the parameters of a function: a bare star there is no product
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return spans + [((f.lineno, f.col_offset), (f.body[0].lineno, f.body[0].col_offset)) for f in functions]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a file that can mean something."""
    source = path.read_text(encoding="utf-8")
    spans, node_tree = wording(ast.parse(source)), get_ast(source)
    for name in operator_names():
        if name.endswith(SILENT):
            continue
        places = [place for node in every_node(node_tree) for place in get_operator(name)().mutation_positions(node)]
        for occurrence, (start, stop) in enumerate(places):
            if any(low <= start and stop <= high for low, high in spans):
                continue
            mutant = Mutant(str(path.relative_to(ROOT)), source, name, occurrence, start[0])
            if not re.search("_Not$|_Pow_", name) or is_python(mutant.source()):
                yield mutant


def is_python(source: str) -> bool:
    """Whether it can be compiled: `2 ** not 1`, for one, cannot, nor `{<<others}` for `{**others}`."""
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def every_node(node: object) -> Iterator[object]:
    """A parso tree in the order in which cosmic-ray counts occurrences."""
    yield node
    for child in getattr(node, "children", ()):
        yield from every_node(child)


class House:
    """A copy of the repository in which one mutant at a time lives, with a process that has its tests collected.

    kept : a folder for what is known of the tests, which the next house takes from there
    patience : seconds of tests for a mutant, of those that run in the process
    digest : of all that it holds
    """

    def __init__(self, folder: Path, tests: list[str], mutated: list[str], kept: Path, patience: float | None) -> None:
        self.folder, self.tests, self.patience = folder, tests, patience
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        digest = hashlib.sha256(" ".join([*tests, *mutated]).encode())
        for name in filter(None, files.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
            if not name.startswith("tests/mutation/"):
                digest.update(name.encode() + (folder / name).read_bytes())
        # No bytecode: a mutant of the same size and second as the original would be taken for it.
        own = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        self.where: dict[str, Any] = {"cwd": folder, "env": {**os.environ, **own}, "text": True}
        self.digest = digest.hexdigest()[:16]
        self.known = kept.resolve() / f"tests-{self.digest}.jsonl"
        command = [sys.executable, "-m", "tests.mutation.runner", str(self.known), *mutated, "--", *OPTIONS, *tests]
        self.loaded = subprocess.Popen(command, **self.where, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        failed = json.loads(self._answer())
        if failed:
            raise SystemExit(f"the tests fail without a mutant: {', '.join(failed)}")

    def _answer(self) -> str:
        assert self.loaded.stdout is not None
        if not (line := self.loaded.stdout.readline()):
            raise SystemExit(f"the process that has the tests has ended ({self.loaded.wait()})")
        return line.strip()

    def likely(self, path: str) -> list[str]:
        """Some quick tests that call a function of the file."""
        tests = [json.loads(line) for line in self.known.read_text(encoding="utf-8").splitlines()]
        calling = sorted((t["taken"], t["name"]) for t in tests if path in {file for file, _ in t["seen"]})
        return [name for _, name in calling[:100]]

    def verdict(self, mutant: Mutant) -> str:
        """Whether the tests pass with it: one of the runner's answers."""
        source = mutant.source()
        if mutant.function is not None:
            assert self.loaded.stdin is not None
            request = {"path": mutant.path, "function": mutant.function, "source": source, "patience": self.patience}
            self.loaded.stdin.write(json.dumps(request) + "\n")
            self.loaded.stdin.flush()
            if (answer := self._answer()) != UNKNOWN:
                return answer
        path = self.folder / mutant.path
        path.write_text(source, encoding="utf-8")
        try:
            for tests in (self.likely(mutant.path), self.tests):
                command = [sys.executable, "-m", "pytest", *OPTIONS, *HANGS, *tests]
                if tests and subprocess.run(command, **self.where, capture_output=True, check=False).returncode:
                    return KILLED
            return SURVIVED
        finally:
            path.write_text(mutant.text, encoding="utf-8")


def changed_line(mutant: Mutant) -> str:
    """The line as the mutant has it, or "without" the one that it lacks."""
    lines = [*difflib.unified_diff(mutant.text.splitlines(), mutant.source().splitlines(), n=0, lineterm="")][2:]
    added, removed = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "+-")
    return "; ".join(added) or f"without {'; '.join(removed)}"


class Verdicts:
    """Those of a run that was stopped. A kill holds for as long as the mutated file is as it was, the rest until
    anything changes: a survivor is tried again when there are other tests."""

    def __init__(self, path: Path, house: House) -> None:
        self.path, self.digest = path, f"{house.digest} {house.patience}"
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


def table(counts: dict[str, Counter[str]]) -> str:
    """What became of the mutants of each file, and of all."""
    columns = (KILLED, ENDLESS, EQUIVALENT, SURVIVED)
    rows = [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]
    head = f"{'file':40} {'mutants':>8}" + "".join(f" {name:>10}" for name in columns)
    body = [f"{name:40} {n.total():8}" + "".join(f" {n[column]:10}" for column in columns) for name, n in rows]
    return "\n".join([head, *body])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--patience", type=float, help="seconds of tests; a mutant that lives so long has survived")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the verdicts: a run that is stopped goes on")
    options = parser.parse_args()
    patterns, tests = TARGETS[options.target]
    files = sorted(path for pattern in patterns.split() for path in PACKAGE.glob(pattern))
    mutants = [m for path in files if options.only in str(path) for m in mutants_of(path)]
    total = len(mutants)
    if options.sample:
        mutants = random.Random(options.seed).sample(mutants, min(total, options.sample))
    mutants.sort(key=lambda mutant: mutant.function is None)  # those that take all tests anew come last
    print(f"{options.target}: {total} mutants in {len(files)} files, {len(mutants)} of them tried", flush=True)
    mutated = [str(path.relative_to(ROOT)) for path in files]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        found = verdicts(mutants, mutated, tests.split(), options.workers, kept, options.patience)
        for done, (mutant, verdict) in enumerate(zip(mutants, found, strict=True), start=1):
            line = changed_line(mutant) if verdict == SURVIVED else ""
            reason = equivalent(mutant.path, line) if line else None
            counts[mutant.path][EQUIVALENT if reason else verdict] += 1
            if line:
                print(
                    f"[{done}] survived: {mutant.path}: {line}{f'  (equivalent: {reason})' if reason else ''}",
                    flush=True,
                )
            elif done % 20 == 0:
                print(f"[{done}]", flush=True)
    whole = sum(counts.values(), Counter[str]())
    killed = whole[KILLED] + whole[ENDLESS]
    share = killed / max(1, killed + whole[SURVIVED])
    print(table(counts), f"{share:.1%} of what a test can tell", sep="\n")
    raise SystemExit(1 if share < 0.95 else 0)


if __name__ == "__main__":
    main()
