"""Mutation testing: every operator and number of the method and of the oracle's comparison, changed one at a time.

    pip install cosmic-ray
    python -m tests.mutation method                     # all mutants of a target; hours for the larger ones
    python -m tests.mutation comparison --sample 200    # some, drawn with --seed

A mutant is killed when the target's tests fail, or one of them does not end. What survives is printed as a diff line
and wants a sharper test, or a reason (EQUIVALENT) why no test can tell. Left out are type annotations, docstrings, the
wording of errors and reports, and the tables that choose a likely cause (the gallery holds those).
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation.runner import SURVIVED, UNKNOWN

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
#: (file, a regular expression of the mutated line as it then reads) -> why no test can tell it from the original.
EQUIVALENT: dict[tuple[str, str], str] = {
    ("algorithm.py", r"total . N for i, total"): "S and C matter up to a positive factor alone",
    ("method/allocation.py", r"and \(r != cap\)\.any"): "no rank is beyond its cap",
    ("method/allocation.py", r"np\.ldexp\(S, [~-]"): "another power of two is as exact",
    ("method/switches.py", r"f\.type <= .bool."): "no type of a switch sorts before bool",
    ("method/singular.py", r"if (r|d_out|not d_out) "): "every way to reduce M has the same vectors: one is quicker",
    ("method/covariance.py", r"shape\[0\] <= 0"): "no axis is shorter than nothing",
    ("method/covariance.py", r"keepdims=False"): "the mean over the first axis is spread over it either way",
    ("oracle/stages/scales.py", r"dims = \[\(.*len\(S\)"): "no rank is near this cap, and no scale depends on it",
    ("oracle/compare.py", r"precision\.name <= .float64."): "the other precisions only ask again, in a finer one",
    ("oracle/stages/walk.py", r"f\.against <= GOLDEN and"): "there are two texts, and the other one is greater",
    ("oracle/stages/bounds.py", r"np\.where\(allowed > 0, allowed, "): "a quotient that is not used",
    ("oracle/stages/spectrum.py", r"found\.sharp_sine\(.\) <= BLUNT"): "a bound of exactly a quarter",
    ("oracle/stages/initialization.py", r"ord=1\)\)"): "another norm of a matrix that is zero or far from it",
    ("oracle/stages/initialization.py", r"\(moved \+ 6[35]\.0 \* unit\)"): "beside what the network's own noise allows",
    ("oracle/stages/loss.py", r"\.ndim < 2 or"): "logits have two axes, or one",
    ("oracle/stages/ranks.py", r"- 1\) <= 0 and"): "a bitwise product is never negative",
    ("oracle/stages/ranks.py", r"float\(distance\) < SAFETY"): "a distance that is the bound to the last bit",
    ("oracle/stages/initialization.py", r"np\.zeros\(max\(0, r << "): "more zeros, and cut to r after it",
    (
        "oracle/stages/spectrum.py",
        r"range\(len\(found\.sigma\) \*\* 1\)",
    ): "every A of d_in rows spans the whole space",
    ("oracle/stages/adamw.py", r"if t >= 0 else"): "what is not finite explains nothing, from either branch",
    ("oracle/stages/initialization.py", r"ord=1\) <= 1e-3"): "another norm of a matrix that is zero or far from it",
}

#: As pytest is called. A single test that runs for two minutes hangs: the mutant made a loop endless.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-m", "not parity")
HANGS = ("-x", "-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true")

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
            if not any(low <= start and stop <= high for low, high in spans):
                yield Mutant(str(path.relative_to(ROOT)), source, name, occurrence, start[0])


def every_node(node: object) -> Iterator[object]:
    """A parso tree in the order in which cosmic-ray counts occurrences."""
    yield node
    for child in getattr(node, "children", ()):
        yield from every_node(child)


class House:
    """A copy of the repository in which one mutant at a time lives, with a process that has its tests collected."""

    def __init__(self, folder: Path, tests: list[str], mutated: list[str]) -> None:
        self.folder, self.tests = folder, tests
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, files.split("\0")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        # No bytecode: a mutant of the same size and second as the original would be taken for it.
        own = {"PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
        self.where: dict[str, Any] = {"cwd": folder, "env": {**os.environ, **own}, "text": True}
        command = [sys.executable, "-m", "tests.mutation.runner", *mutated, "--", *OPTIONS, *tests]
        self.loaded = subprocess.Popen(command, **self.where, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        failed = json.loads(self._answer() or '["the tests could not be collected"]')
        if failed:
            raise SystemExit(f"the tests fail without a mutant: {', '.join(failed)}")

    def _answer(self) -> str:
        assert self.loaded.stdout is not None
        return self.loaded.stdout.readline().strip()

    def survives(self, mutant: Mutant) -> bool:
        """Whether the tests pass with it."""
        source = mutant.source()
        if mutant.function is not None:
            assert self.loaded.stdin is not None
            request = {"path": mutant.path, "function": mutant.function, "source": source}
            self.loaded.stdin.write(json.dumps(request) + "\n")
            self.loaded.stdin.flush()
            if (answer := self._answer()) != UNKNOWN:
                return answer == SURVIVED
        path = self.folder / mutant.path
        path.write_text(source, encoding="utf-8")
        try:
            command = [sys.executable, "-m", "pytest", *OPTIONS, *HANGS, *self.tests]
            return subprocess.run(command, **self.where, capture_output=True, check=False).returncode == 0
        finally:
            path.write_text(mutant.text, encoding="utf-8")


def changed_line(mutant: Mutant) -> str:
    """The line as the mutant has it."""
    lines = difflib.unified_diff(mutant.text.splitlines(), mutant.source().splitlines(), n=0, lineterm="")
    return "; ".join(line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++"))


def equivalent(path: str, line: str) -> str | None:
    """Why no test can tell this mutant, where that is known."""
    known = ((file, pattern, why) for (file, pattern), why in EQUIVALENT.items())
    return next((why for file, pattern, why in known if path.endswith(file) and re.search(pattern, line)), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--only", help="files whose path contains this")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random; by default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    patterns, tests = TARGETS[options.target]
    files = sorted(path for pattern in patterns.split() for path in PACKAGE.glob(pattern))
    mutants = [m for path in files if not options.only or options.only in str(path) for m in mutants_of(path)]
    total = len(mutants)
    if options.sample:
        mutants = random.Random(options.seed).sample(mutants, min(total, options.sample))
    print(f"{options.target}: {total} mutants in {len(files)} files, {len(mutants)} of them tried", flush=True)
    survivors, reasons = [], 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as threads:
        houses: Queue[House] = Queue()
        for number in range(options.workers):
            houses.put(House(Path(folder) / str(number), tests.split(), sorted({m.path for m in mutants})))

        def tried(mutant: Mutant) -> bool:
            house = houses.get()
            try:
                return house.survives(mutant)
            finally:
                houses.put(house)

        for done, (mutant, survived) in enumerate(zip(mutants, threads.map(tried, mutants), strict=True), start=1):
            if survived:
                line = changed_line(mutant)
                reason = equivalent(mutant.path, line)
                reasons += reason is not None
                survivors.append(mutant)
                print(
                    f"[{done}] survived: {mutant.path}: {line}{f'  (equivalent: {reason})' if reason else ''}",
                    flush=True,
                )
            elif done % 20 == 0:
                print(f"[{done}]", flush=True)
    wrong = len(survivors) - reasons
    killed = len(mutants) - len(survivors)
    share = killed / max(1, len(mutants) - reasons)
    print(f"{killed} killed, {reasons} equivalent, {wrong} survived: {share:.1%} of what a test can tell")
    raise SystemExit(1 if share < 0.95 else 0)


if __name__ == "__main__":
    main()
