"""The page's table of families says what is registered and tested, no more and no less."""

from __future__ import annotations

import pytest

from tests.families.table import README, REAL, compared, known, table, written
from tlora_ref.transformer import FAMILIES


def test_the_page_has_the_table_that_the_tests_make() -> None:
    page = README.read_text(encoding="utf-8")
    assert page == written(page), "python -m tests.families.table --write"
    assert page.count(table()) == 1


def test_every_family_is_compared_with_transformers() -> None:
    assert compared() == set(FAMILIES)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_a_known_checkpoint(kind: str) -> None:
    assert known(kind)


def test_no_other_family_is_said_to_have_run() -> None:
    assert set(REAL) <= set(FAMILIES)
