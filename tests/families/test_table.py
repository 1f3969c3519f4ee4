"""The page's table of families says what is registered and tested, no more and no less."""

from __future__ import annotations

import pytest

from tests.data_room.kinds import KINDS
from tests.families.table import (
    README,
    REAL,
    TABLES,
    TOKENIZING,
    checkpoints,
    compared,
    kinds,
    known,
    tokenizer_table,
    tokenizing,
    written,
)
from tests.families.tokenizer_kinds import PUBLISHED
from tlora_ref.transformer import FAMILIES


def test_the_page_has_the_tables_that_the_tests_make() -> None:
    page = README.read_text(encoding="utf-8")
    assert page == written(page), "python -m tests.families.table --write"
    assert all(page.count(make()) == 1 for make in TABLES.values())


def test_every_family_is_compared_with_transformers() -> None:
    assert compared() == set(FAMILIES)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_a_known_checkpoint(kind: str) -> None:
    assert known(kind)


def test_no_other_family_is_said_to_have_run() -> None:
    assert set(REAL) <= set(FAMILIES)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_tokenizers_of_known_kinds_that_are_tested(kind: str) -> None:
    assert kinds(kind) and set(kinds(kind)) <= set(KINDS)
    assert sum(map(len, kinds(kind).values())) == len(checkpoints(kind)), "a checkpoint without a tokenizer"
    assert tokenizing(checkpoints(kind)) == list(TOKENIZING)


def test_a_tokenizer_that_no_test_goes_through_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "newer", FAMILIES["llama"])
    assert kinds("newer") == {}  # a family registered without a checkpoint, and so without a tokenizer
    assert tokenizing(["Llama-2-7b", "newer"]) == [] and "`newer`" not in tokenizer_table()


def test_no_tokenizer_is_of_no_known_checkpoint() -> None:
    assert set(PUBLISHED) == {name for kind in FAMILIES for name in checkpoints(kind)}
