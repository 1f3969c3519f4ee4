"""Which checks, trace quantities and tests hold each equation and line of the paper: tlora_ref/oracle/COVERAGE.md.

    python -m tests.oracle.coverage      # writes the page again

Nothing is listed by hand but the rows. What a function is comes from its docstring, what a stage is from the oracle's
own tables, and which tests use a function from their syntax.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tlora_ref.oracle.implementation import STAGES
from tlora_ref.oracle.kit.run import all_checks
from tlora_ref.oracle.order import ORDER, STAGE_OF

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "tlora_ref" / "oracle" / "COVERAGE.md"

#: The rows: what the paper numbers, and what it says there. The other lines of Alg. 1 open, close or count its loops.
PAPER: dict[tuple[str, ...], str] = {
    ("Eq. 1",): "the adapted module; merged",
    ("Eq. 2",): "dL/dB, and what a step does to W'",
    ("Eq. 5", "line 8"): "sensitivity",
    ("line 9",): "second moment of the inputs",
    ("line 12",): "the budget",
    ("Eq. 6", "line 14"): "ranks",
    ("Eq. 7", "line 15"): "alphas and scales",
    ("Eq. 4", "line 16", "line 17"): "A from the SVD of W C, B = 0",
    ("AdamW",): "the optimizer",
    ("Eq. 3", "Eq. 16"): "V_r of W_0 C^1/2",
    ("Eq. 8",): "the least-squares loss",
    ("Eq. 9",): "the objective J(A)",
    ("Eq. 10",): "J as a trace against a projector",
    ("Eq. 11",): "von Neumann's bound",
    ("Eq. 12",): "M_D and the largest J",
    ("Eq. 13",): "the optimal projector",
    ("Eq. 14", "App. B.1"): "the theoretical A",
    ("Eq. 15", "Eq. 17"): "subspace similarity",
}

HEAD = """# What is covered

Every equation and algorithm line of the paper, the functions that are it, and what holds an implementation, and this
library, to it: checks of `tlora-ref check` (how many), quantities of a trace that `tlora-ref verify` judges, and tests
of `tests/method` that use the function (how many). The theory (Eq. 3 and 8 to 17) is no step of a run: no trace shows
it. The other lines of Alg. 1 open, close or count its loops.

Written by `python -m tests.oracle.coverage`; a test holds it."""


def labels(text: str) -> set[str]:
    """What a text names of the paper: "Eq. 6, 7 (Alg. 1, lines 12 to 15)" are two equations and four lines."""
    found = {f"Eq. {n}" for part in re.findall(r"Eq\. (\d+(?:(?:, | and |, Eq\. )\d+)*)", text) for n in _numbers(part)}
    for part in re.findall(r"(?<!to )\blines? (\d+(?:(?:, | and | to )\d+)*)", text):
        found |= {f"line {n}" for n in _numbers(part)}
    return found | {name for name in ("AdamW", "App. B.1") if name in text}


def _numbers(text: str) -> list[int]:
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return list(range(numbers[0], numbers[-1] + 1)) if " to " in text else numbers


def functions() -> dict[str, set[str]]:
    """{function of method/: what of the paper its docstring opens with}."""
    found = {}
    for path in sorted((ROOT / "tlora_ref" / "method").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                first = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
                found[f"{path.stem}.{node.name}"] = labels(first)
    return found


def tests() -> Iterator[tuple[str, set[str]]]:
    """(file, the names that a test of it uses) of every test of tests/method."""
    for path in sorted((ROOT / "tests" / "method").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                yield path.name, names | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def rows() -> list[tuple[str, str, list[str], list[str], list[str], list[str]]]:
    """Label, meaning, functions, checks by stage, trace quantities, tests by file, of every row of PAPER."""
    known, used = functions(), list(tests())
    checks = Counter(check.stage for check in all_checks().values())
    found = []
    for names, what in PAPER.items():
        own = [function for function, said in known.items() if said & set(names)]
        kit = [stage for stage, text in STAGES.items() if labels(text) & set(names) and checks[stage]]
        stages = [stage for stage, (text, _) in ORDER.items() if labels(text) & set(names)]
        quantities = [kind for kind, stage in STAGE_OF.items() if stage in stages]
        short = {function.partition(".")[2] for function in own}
        files = Counter(file for file, uses in used if uses & short)
        found.append(
            (
                ", ".join(names),
                what,
                own,
                [f"{stage} ({checks[stage]})" for stage in kit],
                quantities,
                [f"{file} ({count})" for file, count in files.items()],
            )
        )
    return found


def page() -> str:
    """The page as it should be."""
    lines = [
        *HEAD.splitlines(),
        "",
        "| paper | what | functions | checks | quantities of a trace | tests |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for label, what, *columns in rows():
        code = [", ".join(f"`{x}`" for x in column) for column in columns]
        lines.append(f"| {label} | {what} | {' | '.join(code)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
