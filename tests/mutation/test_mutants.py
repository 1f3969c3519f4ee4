"""The mutants of a file: cosmic-ray's own, each once, with the statement that each changes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray")
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from tests.mutation import mutants
from tests.mutation.mutants import SILENT, Mutant, is_python, mutants_of

TEXT = """
LIMIT = 2 ** -3

def one(x: int | None, y: int = 1) -> float:
    if not x or y == 0:
        return "a" * 2
    elif x is None:
        raise ValueError(1 + 2)
    for each in [x,
                 y + 1]:
        if each > (
            x
        ):
            continue
    try:
        return -x
    except KeyError:
        return [a - b for a,
                b in x]

class Kind:
    @property
    def two(self):
        return {**self.x}
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mutant]:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "m.py").write_text(TEXT)
    return [*mutants_of(tmp_path / "m.py")]


def test_the_sources_are_cosmic_rays(found: list[Mutant]) -> None:
    every = set()
    for name in operator_names():
        occurrence = 0
        while not name.endswith(SILENT) and (source := mutate_code(TEXT, get_operator(name)(), occurrence)) is not None:
            every.add(source)
            occurrence += 1
    sources = [mutant.source() for mutant in found]
    assert len({*sources}) == len(sources) and {*sources} <= every
    left_out = [source for source in every - {*sources} if is_python(source)]
    added = [line for source in left_out for line in {*source.splitlines()} - {*TEXT.splitlines()}]
    assert added and all(any(text in line for text in ("def one(", "raise", '"a"')) for line in added), added


def test_each_knows_its_function_and_its_statement(found: list[Mutant]) -> None:
    assert {mutant.changed_line() for mutant in found if mutant.function is None} >= {
        "LIMIT = 3 ** -3",
        "without @property",
    }
    of = {(mutant.function, TEXT.splitlines()[mutant.lines[0] - 1].strip(), mutant.lines) for mutant in found}
    assert {place for place in of if place[0] is not None} == {
        ("one", "if not x or y == 0:", (5, 5)),
        ("one", 'return "a" * 2', (6, 6)),
        ("one", "elif x is None:", (7, 7)),
        ("one", "for each in [x,", (9, 10)),
        ("one", "if each > (", (11, 13)),
        ("one", "continue", (14, 14)),
        ("one", "return -x", (16, 16)),
        ("one", "return [a - b for a,", (18, 19)),
        ("Kind.two", "return {**self.x}", (24, 24)),
    }
