"""The walkthrough: chapters run and compute what their text states; exercises take right answers and no others."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.walkthrough import exercises
from examples.walkthrough import test_exercises as checks

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "walkthrough"
CHAPTERS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A chapter finds `walk` beside it, as when it is run; the model is loaded once for all of them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    walk = sys.modules.get("walk")
    if walk is not None:
        walk.shipped()[0].detach()


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_the_chapter_computes_what_it_states(chapter: Path, beside: None, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(chapter), run_name="__main__")
    assert capsys.readouterr().out


def cells(chapter: Path) -> tuple[str, str]:
    """The chapter's prose and its code."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for cell in re.split(r"^# %%", chapter.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        parts[cell.startswith(" [markdown]")].append(cell)
    return "\n".join(parts[True]), "\n".join(parts[False])


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_decimal_of_the_text_is_checked_by_the_code(chapter: Path) -> None:
    prose, code = cells(chapter)
    numbers = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", re.sub(r"App\w* [A-Z]\.\d|\$[^$]*\$|`[^`]*`", "", prose))
    elsewhere = {"0.908"}  # the paper's own
    assert [number for number in numbers if number not in code and number not in elsewhere] == []
    assert f"chapter {int(chapter.stem[:2])}" in prose and "exercises.py" in prose
    assert "assert" in code


def test_there_are_nine_chapters_in_order() -> None:
    assert [int(chapter.stem[:2]) for chapter in CHAPTERS] == list(range(1, 10))
    for number, chapter in enumerate(CHAPTERS, 1):
        assert chapter.read_text(encoding="utf-8").startswith(f"# %% [markdown]\n# # {number}. ")


def test_a_number_that_the_run_does_not_give_is_noticed() -> None:
    stated: Callable[[str, float], None] = importlib.import_module("examples.walkthrough.walk").stated
    stated("0.94", 0.9449)
    stated("19", 19)
    for number, value in (("0.94", 0.95), ("0.940", 0.9449), ("19", 20.0)):
        with pytest.raises(AssertionError, match="the text says"):
            stated(number, value)


# ---- the exercises: right answers, and the mistakes one makes ----


def top(M: np.ndarray, r: int) -> np.ndarray:
    return np.linalg.svd(M)[2][:r]


def root(C: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(C)
    return (vectors * values**power) @ vectors.T


def solved(A: np.ndarray, C: np.ndarray, D: np.ndarray) -> np.ndarray:
    return D @ C @ A.T @ np.linalg.inv(A @ C @ A.T)


def part(A: np.ndarray, C: np.ndarray, D: np.ndarray) -> float:
    E = solved(A, C, D) @ A
    return float(np.trace(E @ C @ D.T) / np.trace(D @ C @ D.T))


class Right:
    def covariance(self, inputs: Any) -> Any:
        return sum(X.T @ X for X in inputs) / len(inputs)

    def grad_b(self, x: Any, dy: Any, A: Any, B: Any, scale: float) -> Any:
        return scale * (dy.T @ x) @ A.T


class Unscaled(Right):
    def grad_b(self, x: Any, dy: Any, A: Any, B: Any, scale: float) -> Any:
        return (dy.T @ x) @ A.T


class Centred(Right):
    def covariance(self, inputs: Any) -> Any:
        return super().covariance([X - X.mean(axis=0) for X in inputs])


#: exercise -> a right answer, then wrong ones.
ANSWERS: dict[str, list[Any]] = {
    "n_steps": [
        lambda G, A, s, lr, n: -n * lr * s**2 * G @ A.T @ A,
        lambda G, A, s, lr, n: -n * lr * s * G @ A.T @ A,
        lambda G, A, s, lr, n: -lr * s**2 * G @ A.T @ A,
        lambda G, A, s, lr, n: -n * lr * s**2 * G,
    ],
    "root_mean_square_change": [
        lambda C, D, samples, tokens: float(np.sqrt(samples * np.trace(D @ C @ D.T) / (tokens * len(D)))),
        lambda C, D, samples, tokens: float(np.sqrt(np.trace(D @ C @ D.T) / (tokens * len(D)))),
        lambda C, D, samples, tokens: float(samples * np.trace(D @ C @ D.T) / (tokens * len(D))),
    ],
    "best_B": [solved, lambda A, C, D: D @ A.T @ np.linalg.inv(A @ A.T), lambda A, C, D: solved(A, C, D).T],
    "granted": [part, lambda A, C, D: part(A, np.eye(len(C)), D), lambda A, C, D: 1.0],
    "A_of_equation_4": [
        lambda W, C, r: top(W @ C, r),
        lambda W, C, r: top(W, r),
        lambda W, C, r: top(W @ root(C, 0.5), r),
    ],
    "A_of_equation_14": [
        lambda W, C, r: top(W @ root(C, 0.5), r) @ root(C, -0.5),
        lambda W, C, r: top(W @ root(C, 0.5), r),
        lambda W, C, r: top(W @ C, r),
    ],
    "sensitivity": [
        lambda W, gradients: float(np.mean([np.mean(abs(W * g)) for g in gradients])),
        lambda W, gradients: float(np.mean(abs(W * np.mean(gradients, axis=0)))),
        lambda W, gradients: float(abs(np.mean([W * g for g in gradients]))),
    ],
    "ranks": [
        lambda S, r_init: [round(Fraction(len(S) * r_init * s, sum(S))) for s in S],
        lambda S, r_init: [int(len(S) * r_init * s / sum(S) + 0.5) for s in S],
        lambda S, r_init: [round(len(S) * r_init * (s / sum(S))) for s in S],  # rounds the share first
    ],
    "B_beside": [lambda R, B: B @ np.linalg.inv(R), lambda R, B: B @ R.T, lambda R, B: B @ R],
    "trained_numbers": [
        lambda rank, shapes, frozen_A: sum(r * (shapes[m][0] + (not frozen_A) * shapes[m][1]) for m, r in rank.items()),
        lambda rank, shapes, frozen_A: sum(r * sum(shapes[m]) for m, r in rank.items()),
        lambda rank, shapes, frozen_A: sum(r * shapes[m][1] for m, r in rank.items()),
    ],
    "MyTLoRA": [Right, Unscaled, Centred],
}


def checking(name: str) -> list[Callable[[], None]]:
    """The tests of test_exercises.py that call the exercise."""
    tests = [test for title, test in vars(checks).items() if title.startswith("test_chapter_")]
    return [test for test in tests if f"exercises.{name}" in inspect.getsource(test)]


@pytest.mark.parametrize("name", ANSWERS)
def test_right_answers_pass_and_wrong_ones_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = checking(name)
    assert len(tests) == 1, "each exercise has its test"
    with pytest.raises(pytest.skip.Exception, match="not done yet"):
        tests[0]()
    for other, answers in ANSWERS.items():
        monkeypatch.setattr(exercises, other, answers[0])
    tests[0]()
    for wrong in ANSWERS[name][1:]:
        monkeypatch.setattr(exercises, name, wrong)
        with pytest.raises(AssertionError):
            tests[0]()


def test_every_blank_has_an_answer_here() -> None:
    public = [name for name, value in vars(exercises).items() if getattr(value, "__module__", "") == exercises.__name__]
    assert set(public) - {"NotDone"} == set(ANSWERS)
