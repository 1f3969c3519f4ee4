"""The page of results: this library's own rows as they are now; the rest is there, and was written by the command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle.results import OWN, PAGE, Bench, check_row, run_row, runs
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.order import ORDER


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", OWN)
def test_this_librarys_rows_are_on_the_page(name: str, profile: str, bench: Bench) -> None:
    row = run_row(name, profile, runs(bench)[name, profile]())
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), f"{row}: python -m tests.oracle.results"
    assert row.count("| right ") == len(ORDER)


def test_the_reference_is_right_on_the_page() -> None:
    row = check_row("this library, float64", Reference(PROFILES["paper"]), "paper", examples=1)
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), row


def test_every_run_has_its_row(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, profile in runs(Bench(tmp_path)):
        assert f"| {name} | {profile} |" in page, "python -m tests.oracle.results writes the page again"
    for name in ("example 03 (PyTorch), float32", "example 04 (JAX), float32"):
        assert all(f"| {name} | {profile} |" in page for profile in PROFILES)
