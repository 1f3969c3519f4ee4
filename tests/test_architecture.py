"""The rooms' arrows, and the house rules that imports and syntax alone can show.

Each rule is a function from one parsed source file to a list of complaints. It is run over the package, and over a
planted violation, which it must catch.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "tlora_ref"

EVERYWHERE = {"backend", "errors", "files", "names"}
MAKES_ARTEFACTS = EVERYWHERE | {"provenance"}
ALL_BUT_CLI = {
    *MAKES_ARTEFACTS,
    *(
        "version",
        "machine",
        "shipped",
        "autograd",
        "method",
        "algorithm",
        "adapter",
        "transformer",
        "checkpoint",
        "data",
        "calibration",
        "training",
        "tasks",
        "planning",
        "pipeline",
        "pages",
        "reports",
        "explanation",
        "study",
    ),
    "oracle",
}

#: Room -> the rooms it may import. A room is a folder of the package or a file at its top level.
#: `adapter` holds what allocation and initialisation produce (Plan, Adapter), so that checkpoint and training
#: share them without importing each other. calibration and training import the transformer's public type alone.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "names": set(),
    "shipped": {"errors"},
    "backend": {"errors"},
    "machine": set(),
    "provenance": {"machine", "version"},
    "pages": {"errors", "files", "names"},
    "version": set(),
    "autograd": EVERYWHERE | {"machine"},
    "method": EVERYWHERE,
    "algorithm": EVERYWHERE | {"method"},
    "adapter": EVERYWHERE | {"method", "algorithm"},
    "transformer": EVERYWHERE | {"autograd"},
    "checkpoint": MAKES_ARTEFACTS | {"machine", "transformer", "method", "adapter"},
    "data": EVERYWHERE,
    "calibration": MAKES_ARTEFACTS | {"machine", "method", "algorithm", "autograd", "transformer"},
    "training": EVERYWHERE | {"method", "autograd", "data", "adapter", "transformer"},
    "tasks": EVERYWHERE | {"data", "training", "transformer"},
    "planning": EVERYWHERE | {"autograd", "checkpoint", "transformer", "adapter", "calibration", "data", "training"},
    "pipeline": EVERYWHERE
    | {"method", "adapter", "calibration", "checkpoint", "data", "tasks", "training", "transformer"},
    "oracle": ALL_BUT_CLI - {"tasks", "planning", "pipeline", "reports", "explanation", "study"},
    "harness": {"backend", "errors", "data", "pipeline"},
    "reports": MAKES_ARTEFACTS | {"adapter", "calibration", "checkpoint", "oracle", "pages", "training"},
    "explanation": MAKES_ARTEFACTS
    | {"method", "algorithm", "adapter", "calibration", "pages", "pipeline", "training", "transformer"},
    "study": MAKES_ARTEFACTS
    | {"shipped", "method", "adapter", "transformer", "checkpoint", "data", "calibration", "training"}
    | {"pages", "pipeline", "planning"},
    # A command reads settings, calls the library and prints: what computes is out of its reach.
    "cli": {"errors", "names", "files", "machine", "provenance", "__init__", "checkpoint", "data", "tasks", "planning"}
    | {"pages", "pipeline", "reports", "training", "oracle", "explanation", "calibration", "study"},
    "__init__": ALL_BUT_CLI,
    "__main__": {"machine", "cli"},
}

#: Rooms that take only the other's front door (`from tlora_ref.transformer import Model`), not what is behind it.
FRONT_DOOR_ONLY = {("calibration", "transformer"), ("training", "transformer")}

#: Rooms that stay arithmetic: no library beyond these and the standard library.
LIBRARIES: dict[str, set[str]] = {
    "errors": set(),
    "names": set(),
    "machine": set(),  # imported before NumPy
    "version": set(),
    "autograd": {"numpy", "scipy"},
    "method": {"numpy", "scipy"},
    "algorithm": {"numpy"},
    "transformer": {"numpy"},
    "tasks": {"yaml"},
    "pages": {"jinja2"},
    "pipeline": set(),
    "cli": {"typer", "rich", "yaml", "plotext"},
}
#: Signs of arithmetic, and the one file of `cli/` that puts numbers into words.
ARITHMETIC = (ast.Mult, ast.FloorDiv, ast.Pow, ast.MatMult, ast.Mod)
WORDS = f"{PACKAGE}/cli/screen.py"
FORBIDDEN_LIBRARIES = {"torch", "transformers", "peft", "tensorflow"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec"}
UNSAFE_YAML = {"load", "load_all", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"}

MAX_FILE_LINES = 350
MEDIAN_FILE_LINES = 130
MAX_FUNCTION_LINES = 40
#: "path" or "path::function" -> why it may be longer. An entry that is no longer needed fails a test.
LENGTH_EXEMPTIONS: dict[str, str] = {
    "tlora_ref/training/loop.py::train": "a run's options are its parameters, one a line",
    "tlora_ref/cli/init.py::run": "a command's flags are its parameters, one a line",
    "tlora_ref/cli/explain.py::run": "a command's flags are its parameters, one a line",
    "tlora_ref/cli/trace.py::run": "a command's flags are its parameters, one a line",
    "tlora_ref/cli/generate.py::run": "a command's flags are its parameters, one a line",
    "tlora_ref/cli/eval.py::run": "a command's flags are its parameters, one a line",
    "tlora_ref/cli/plan.py::run": "a command's flags are its parameters, one a line",
    "tlora_ref/cli/train.py::run": "a command's flags are its parameters, one a line",
}


@dataclass(frozen=True)
class Source:
    """One file: `path` relative to the repository, parsed."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @property
    def package_parts(self) -> tuple[str, ...]:
        """Of `tlora_ref/a/b.py`: ("tlora_ref", "a", "b")."""
        return Path(self.path).with_suffix("").parts

    @property
    def room(self) -> str:
        return self.package_parts[1]


def imports(source: Source) -> Iterator[str]:
    """Every module imported anywhere in the file, absolute, `from a import b` as `a.b`; importlib's too."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                base = [*source.package_parts[: -node.level], *base]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            yield name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "<computed>"


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def wrong_arrows(source: Source) -> list[str]:
    allowed = ARROWS.get(source.room)
    if allowed is None:
        return [f"{source.path}: the room '{source.room}' is not in ARROWS"]
    complaints = []
    for name in imports(source):
        top, *inner = name.split(".")
        if top != PACKAGE:
            continue
        room = inner[0] if inner and inner[0] in ARROWS else "__init__"
        if room != source.room and room not in allowed:
            complaints.append(f"{source.path}: {source.room} may not import {name}")
        elif (source.room, room) in FRONT_DOOR_ONLY and len(inner) != 2:
            complaints.append(f"{source.path}: import a public name from {PACKAGE}.{room}, not {name}")
    return complaints


def wrong_libraries(source: Source) -> list[str]:
    complaints = []
    for top in (name.partition(".")[0] for name in imports(source)):
        if top in FORBIDDEN_LIBRARIES:
            complaints.append(f"{source.path}: {top} has no place in the package")
        if top == "<computed>" and source.path == LOADS_WHAT_THE_USER_NAMES:
            continue
        if (top.startswith("cupy") or top == "<computed>") and source.room != "backend":
            complaints.append(f"{source.path}: {top} is imported; only backend.py imports CuPy or computed names")
        if top in LIBRARY_NAMES and source.room in LIBRARIES and top not in LIBRARIES[source.room]:
            complaints.append(f"{source.path}: {source.room} does without {top}")
    return complaints


#: `check pkg.module:name` runs the user's own implementation: the one import of a name that is not written down.
LOADS_WHAT_THE_USER_NAMES = "tlora_ref/cli/user_code.py"
LIBRARY_NAMES = {"numpy", "scipy", "ml_dtypes", "safetensors", "tokenizers", "jinja2", "yaml", "rich", "typer"}


def computes_in_a_command(source: Source) -> list[str]:
    """Commands multiply, divide and sum nothing: what is counted is counted in the library, and can be called there."""
    if source.room != "cli" or source.path == WORDS:
        return []
    return [
        f"{source.path}, line {node.lineno}: a command computes; let the library do it, or {WORDS} say it"
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.BinOp | ast.AugAssign) and (isinstance(node.op, ARITHMETIC) or _divides(node)))
        or (isinstance(node, ast.Call) and _called(node) == "sum")
    ]


def _divides(node: ast.BinOp | ast.AugAssign) -> bool:
    """A division, and not a path and a name in it: those are strings, or constants in capitals."""
    right = node.value if isinstance(node, ast.AugAssign) else node.right
    names = isinstance(right, ast.JoinedStr) or (isinstance(right, ast.Constant) and isinstance(right.value, str))
    return isinstance(node.op, ast.Div) and not (names or (isinstance(right, ast.Name) and right.id.isupper()))


def unsafe_code(source: Source) -> list[str]:
    complaints = [
        f"{source.path}: {name} can run code from a file"
        for name in imports(source)
        if UNSAFE_MODULES & set(name.split("."))
    ]
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        where = f"{source.path}:{node.lineno}"
        if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            complaints.append(f"{where}: {node.func.id}() runs text as code")
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id == "yaml" and _called(node) in UNSAFE_YAML:
            complaints.append(f"{where}: yaml.{_called(node)}; use yaml.safe_load")
        for keyword in node.keywords:
            refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg == "allow_pickle" and not refused:
                complaints.append(f"{where}: allow_pickle is not False")
    return complaints


def too_long(source: Source) -> dict[str, str]:
    """What is too long -> a complaint. A function's docstring does not count: it is there to be long enough."""
    complaints = {}
    if (lines := source.text.count("\n")) >= MAX_FILE_LINES:
        complaints[source.path] = f"{source.path}: {lines} lines, expected under {MAX_FILE_LINES}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if lines >= MAX_FUNCTION_LINES:
                key = f"{source.path}::{node.name}"
                complaints[key] = f"{key}: {lines} lines without its docstring, expected under {MAX_FUNCTION_LINES}"
    return complaints


def file_circles(found: Iterable[Source]) -> list[list[str]]:
    """The groups of files that import each other, directly or not, wherever in the file the import stands.

    `from a import b` leads to the file a/b.py, or, where b is a name, to what defines it for others: a.py or
    a/__init__.py. That Python runs a room's __init__.py before any file of it is no import of that file.
    """
    module_of = {source: ".".join(source.package_parts).removesuffix(".__init__") for source in found}
    modules = sorted(set(module_of.values()))
    leads_to = np.zeros((len(modules), len(modules)), dtype=bool)
    for source, module in module_of.items():
        for name in imports(source):
            file = name if name in modules else name.rpartition(".")[0]
            if file in modules and file != module:
                leads_to[modules.index(module), modules.index(file)] = True
    _, group = connected_components(leads_to, directed=True, connection="strong")
    groups = [[m for m, g in zip(modules, group, strict=True) if g == number] for number in range(group.max() + 1)]
    return [members for members in groups if len(members) > 1]


def rooms_without_readme(package: Path) -> list[str]:
    """The folders of Python files, at any depth, that have no README.md, relative to the repository."""
    folders = sorted({path.parent for path in package.rglob("*.py")} - {package})
    return [folder.relative_to(package.parent).as_posix() for folder in folders if not (folder / "README.md").is_file()]


def sources(*folders: str) -> list[Source]:
    paths = sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py*") if path.suffix in (".py", ".pyi")
    )
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


# ---- the package ----


@pytest.mark.parametrize("rule", [wrong_arrows, wrong_libraries, computes_in_a_command, unsafe_code])
def test_the_package_keeps_the_rule(rule) -> None:
    found = sources(PACKAGE)
    assert found, "the checker read no file"
    assert [complaint for source in found for complaint in rule(source)] == []


def test_files_and_functions_stay_short() -> None:
    long = {key: text for source in sources(PACKAGE, "models", "examples") for key, text in too_long(source).items()}
    assert [text for key, text in long.items() if key not in LENGTH_EXEMPTIONS] == []
    assert set(LENGTH_EXEMPTIONS) <= set(long), "an exemption is no longer needed: remove it"
    lengths = [source.text.count("\n") for source in sources(PACKAGE)]
    assert statistics.median(lengths) < MEDIAN_FILE_LINES


def test_files_import_each_other_in_no_circle() -> None:
    assert file_circles(sources(PACKAGE)) == []


def test_every_room_has_a_door_sign() -> None:
    assert rooms_without_readme(ROOT / PACKAGE) == []


def test_the_arrows_have_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(ARROWS):
        free = [room for room in ARROWS if room not in order and ARROWS[room] <= {*order, room}]
        assert free, f"a cycle among {sorted(set(ARROWS) - set(order))}"
        order.append(free[0])


# ---- the checker: every planted violation is caught, its harmless neighbour is not ----


def planted(text: str, path: str = f"{PACKAGE}/method/planted.py") -> Source:
    return Source(path, text)


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("method", "import tlora_ref.transformer"),
        ("method", "from tlora_ref.autograd import Tensor"),
        ("method", "from tlora_ref import autograd"),
        ("method", "from tlora_ref import load_model"),
        ("method", "from ..calibration import calibrate"),
        ("method", "from .. import calibration"),
        ("method", "def f():\n    import tlora_ref.cli"),
        ("method", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tlora_ref.data import Row"),
        ("method", "import importlib\nimportlib.import_module('tlora_ref.data')"),
        ("autograd", "from tlora_ref.method import allocation"),
        ("transformer", "from tlora_ref.adapter import Adapter"),
        ("training", "from tlora_ref.calibration import calibrate"),
        ("training", "from tlora_ref.transformer.llama import Llama"),
        ("data", "from tlora_ref.checkpoint import load_model"),
        ("oracle", "from tlora_ref.cli import main"),
        ("oracle", "from tlora_ref.pipeline import DataSource"),
        ("cli", "from tlora_ref.transformer import Model"),
        ("cli", "from tlora_ref.method.allocation import ranks"),
        ("nowhere", "import os"),
    ],
)
def test_a_wrong_arrow_is_caught(room: str, text: str) -> None:
    assert wrong_arrows(planted(text, f"{PACKAGE}/{room}/planted.py"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("method/a.py", "from tlora_ref.backend import Array\nfrom .covariance import centred\nimport numpy as np"),
        ("adapter/a.py", "from tlora_ref.method import allocation\nfrom .. import algorithm"),
        ("training/a.py", "from tlora_ref.transformer import Model"),
        ("cli/a.py", "import tlora_ref as tr\nfrom tlora_ref.oracle import trace"),
        ("pipeline/a.py", "from tlora_ref.calibration import calibrate"),
        ("__init__.py", "from tlora_ref.training import train"),
    ],
)
def test_a_right_arrow_is_not(path: str, text: str) -> None:
    assert wrong_arrows(planted(text, f"{PACKAGE}/{path}")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch",
        "from transformers import AutoModel",
        "def f():\n    from peft import LoraConfig",
        "import cupy as cp",
        "import cupyx.scipy",
        "import importlib\nimportlib.import_module('cupy')",
        "import importlib\nimportlib.import_module(name)",
        "__import__('torch')",
        "import safetensors.numpy",
    ],
)
def test_a_wrong_library_is_caught(text: str) -> None:
    assert wrong_libraries(planted(text))


def test_cupy_is_allowed_in_backend_and_mentioning_it_anywhere() -> None:
    assert wrong_libraries(planted("import importlib\nimportlib.import_module('cupy')", f"{PACKAGE}/backend.py")) == []
    assert wrong_libraries(planted("'''On CuPy, import torch is not needed.'''\nname = 'cupy'")) == []


@pytest.mark.parametrize(
    "text", ["x = a * b", "x = a / b", "x = sum(y)", "x /= len(y)", "x @= W", "x = rate**2", "x = n // 4", "x = n % 2"]
)
def test_arithmetic_in_a_command_is_caught(text: str) -> None:
    assert computes_in_a_command(planted(text, f"{PACKAGE}/cli/planted.py"))
    assert computes_in_a_command(planted(text, WORDS)) == []
    assert computes_in_a_command(planted(text, f"{PACKAGE}/training/planted.py")) == []


def test_paths_and_lists_in_a_command_are_not() -> None:
    text = "f(*flags, **more)\nfound |= {}\nwords = words + [out / 'adapter', out / START, out / f'{name}']"
    assert computes_in_a_command(planted(text, f"{PACKAGE}/cli/planted.py")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from marshal import loads",
        "import joblib",
        "eval('1')",
        "exec(text)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "import yaml\nyaml.unsafe_load(f)",
        "from numpy import load\nload(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=flag)",
    ],
)
def test_unsafe_code_is_caught(text: str) -> None:
    assert unsafe_code(planted(text))


def test_safe_code_is_not() -> None:
    assert unsafe_code(planted("yaml.safe_load(f)\nmodel.eval()\nnp.load(f, allow_pickle=False)\nnp.load(f)")) == []


A, B, C = (f"{PACKAGE}/{name}.py" for name in ("room/a", "room/b", "other/c"))
FRONT_DOOR = f"{PACKAGE}/room/__init__.py"


@pytest.mark.parametrize(
    ("texts", "circle"),
    [
        ({A: "from tlora_ref.room.b import f", B: "from tlora_ref.room.a import g"}, "room.a room.b"),
        ({A: "from . import b", B: "def f():\n    from .a import g"}, "room.a room.b"),
        (
            {
                A: "import tlora_ref.room.b",
                B: "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a",
            },
            "room.a room.b",
        ),
        (
            {A: "import tlora_ref.room.b", B: "from tlora_ref.other import c", C: "from tlora_ref.room.a import g"},
            "other.c room.a room.b",
        ),
        ({FRONT_DOOR: "from tlora_ref.room.a import g", A: "from tlora_ref.room import g"}, "room room.a"),
        ({A: "from tlora_ref.room.b import f", B: "", C: "from tlora_ref.room.a import b"}, ""),
        ({FRONT_DOOR: "from tlora_ref.room.a import g", A: "from tlora_ref.room.b import f", B: ""}, ""),
    ],
)
def test_circles_of_files_are_found(texts: dict[str, str], circle: str) -> None:
    found = file_circles(planted(text, path) for path, text in texts.items())
    assert found == ([[f"{PACKAGE}.{name}" for name in circle.split()]] if circle else [])


def test_a_room_without_a_door_sign_is_found(tmp_path: Path) -> None:
    for folder in ("with", "without", "with/inner"):
        (tmp_path / "p" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / folder / "a.py").touch()
    (tmp_path / "p" / "with" / "README.md").touch()
    assert rooms_without_readme(tmp_path / "p") == ["p/with/inner", "p/without"]


def test_length_is_counted_without_docstrings() -> None:
    body = "    x = 1\n" * (MAX_FUNCTION_LINES - 2)
    docstring = '    """One.\n\n    Two.\n    """\n'
    assert too_long(planted(f"def f():\n{docstring}{body}")) == {}
    assert list(too_long(planted(f"def f():\n{docstring}{body}    y = 2\n"))) == [f"{PACKAGE}/method/planted.py::f"]
    assert too_long(planted("x = 1\n" * (MAX_FILE_LINES - 1))) == {}
    assert list(too_long(planted("x = 1\n" * MAX_FILE_LINES))) == [f"{PACKAGE}/method/planted.py"]
