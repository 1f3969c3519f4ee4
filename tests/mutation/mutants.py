"""The mutants of a file: each operator, comparison, number, condition, loop and decorator of it, changed one at a time.

Left out are type annotations, docstrings, the wording of errors and reports, the tables that choose a likely cause (the
gallery holds those), which of two texts is the greater (they are compared to be the same or not), what is no Python
(`2 ** not 1`), and what another operator has made already.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from cosmic_ray.ast import get_ast
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[2]

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

Place = tuple[int, int]  # line, from 1, and column
Span = tuple[Place, Place]


@dataclass(frozen=True)
class Mutant:
    """One change of one file: `new` in the place of text[start:stop].

    line : where the change begins
    """

    path: str
    text: str  # of the file, as it was when the run began: the working tree may change meanwhile
    start: int
    stop: int
    new: str
    line: int

    @property
    def name(self) -> str:
        """Another one when its file changes."""
        return f"{self.path} {_digest(self.text)} {self.start}-{self.stop} {self.new}"

    @property
    def function(self) -> str | None:
        """The function of the module, or of a class of it, in whose body it is."""
        return next((name for name, first, last in _functions(self.text) if first <= self.line <= last), None)

    @property
    def lines(self) -> tuple[int, int]:
        """The first and the last of the statement that is changed, of a compound one without its body."""
        return next(lines for lines in _statements(self.text) if lines[0] <= self.line <= lines[1])

    def source(self) -> str:
        return self.text[: self.start] + self.new + self.text[self.stop :]

    def changed_line(self) -> str:
        """The line as the mutant has it, or "without" the one that it lacks."""
        lines = [*difflib.unified_diff(self.text.splitlines(), self.source().splitlines(), n=0, lineterm="")][2:]
        added, removed = ([line[1:].strip() for line in lines if line.startswith(sign)] for sign in "+-")
        return "; ".join(added) or f"without {'; '.join(removed)}"


@cache
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _functions(text: str) -> list[tuple[str, int, int]]:
    """Each function of the module or of a class of it: its name, the first and the last line of its body."""
    tree = ast.parse(text)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    inside = [(f"{node.name}.", f) for node in classes for f in node.body] + [("", node) for node in tree.body]
    functions = [(prefix, node) for prefix, node in inside if isinstance(node, ast.FunctionDef)]
    return [(f"{prefix}{f.name}", f.body[0].lineno, f.end_lineno or 0) for prefix, f in functions]


@cache
def _statements(text: str) -> list[tuple[int, int]]:
    """The lines of every statement, the innermost first; of one with a body its header's."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
            body = getattr(node, "body", None)
            last = max(first, body[0].lineno - 1) if body else node.end_lineno  # type: ignore[union-attr]
            found.append((min([first, *(d.lineno for d in getattr(node, "decorator_list", ()))]), last or first))
    return sorted(found, key=lambda lines: lines[1] - lines[0])


def wording(tree: ast.AST) -> list[Span]:
    """Where signatures, texts, raised errors and the tables of likely causes (text, what it would give) stand.

    The text of a cause may have a name, where what it would give is a lambda.
    """
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        cause = (
            isinstance(node, ast.Tuple)
            and len(node.elts) == 2
            and (_is_text(node.elts[0]) or isinstance(node.elts[1], ast.Lambda))
        )
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
    """All mutants of a file that can mean something, each once."""
    text = path.read_text(encoding="utf-8")
    spans, nodes = wording(ast.parse(text)), [*every_node(get_ast(text))]
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    seen = set()
    for name in operator_names():
        if name.endswith(SILENT):
            continue
        operator = get_operator(name)()
        for node in nodes:
            if re.search("_(Lt|LtE|Gt|GtE)$", name) and any(
                each.type == "string" for each in getattr(node, "children", ())
            ):
                continue
            for index, (start, stop) in enumerate(operator.mutation_positions(node)):
                if any(low <= start and stop <= high for low, high in spans):
                    continue
                line, column = node.get_start_pos_of_prefix()
                begin, end = starts[line - 1] + column, starts[node.end_pos[0] - 1] + node.end_pos[1]
                mutant = Mutant(
                    str(path.relative_to(ROOT)), text, begin, end, _mutated(operator, node, index), start[0]
                )
                source = mutant.source()
                if source not in seen and (not re.search("_Not$|_Pow_", name) or is_python(source)):
                    seen.add(source)
                    yield mutant


def _mutated(operator: Any, node: Any, index: int) -> str:
    """The text of a node as the operator makes it. The node, which operators change in place, stays as it is."""
    whole = [*every_node(node)]
    values, children = [getattr(n, "value", None) for n in whole], [getattr(n, "children", None) for n in whole]
    kept = [None if c is None else [*c] for c in children]
    changed = operator.mutate(node, index)
    code = "" if changed is None else changed.get_code()
    for each, value, child in zip(whole, values, kept, strict=True):
        if child is not None:
            each.children[:] = child
        elif value is not None:
            each.value = value
    return str(code)


def is_python(source: str) -> bool:
    """Whether it can be parsed: `2 ** not 1`, for one, cannot, nor `{<<others}` for `{**others}`."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def every_node(node: Any) -> Iterator[Any]:
    """A parso tree."""
    yield node
    for child in getattr(node, "children", ()):
        yield from every_node(child)
