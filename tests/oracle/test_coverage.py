"""The page of what is covered is what the code says, and nothing of the paper is without evidence."""

from __future__ import annotations

import pytest

from tests.oracle.coverage import PAGE, PAPER, labels, page, rows
from tlora_ref.oracle.implementation import STAGES
from tlora_ref.oracle.order import ORDER


def test_the_page_is_as_the_code_has_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.oracle.coverage writes it again"


def test_every_equation_and_line_has_a_function_and_a_test_and_every_step_of_a_run_a_check() -> None:
    numbered = {label for names in PAPER for label in names}
    assert {f"Eq. {n}" for n in range(1, 18)} | {f"line {n}" for n in (8, 9, 12, 14, 15, 16, 17)} <= numbered
    for label, _, functions, checks, quantities, tests in rows():
        assert functions and tests, f"{label} has no function or no test"
        of_a_run = label in {"Eq. 1", "Eq. 2", "line 9", "AdamW"} or "line 1" in label or "line 8" in label
        assert bool(checks) == of_a_run, f"{label}: checks {checks}"
        assert bool(quantities) == (of_a_run and label != "line 12"), f"{label}: quantities {quantities}"


def test_no_stage_is_of_something_that_has_no_row() -> None:
    numbered = {label for names in PAPER for label in names}
    for stage, said in [*STAGES.items(), *((stage, text) for stage, (text, _) in ORDER.items())]:
        assert labels(said) & numbered, f"{stage}: {said}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Eq. 6, 7 (Alg. 1, lines 12 to 15)", {"Eq. 6", "Eq. 7", "line 12", "line 13", "line 14", "line 15"}),
        ("Eq. 4 (Alg. 1, lines 16 and 17): A", {"Eq. 4", "line 16", "line 17"}),
        ("Eq. 13 (and Eq. 3, 16 with W_0 for D)", {"Eq. 13", "Eq. 3", "Eq. 16"}),
        ("AdamW (arXiv 1711.05101, Alg. 2)", {"AdamW"}),
        ("one line of text, 12 words", set()),
    ],
)
def test_what_a_text_names(text: str, found: set[str]) -> None:
    assert labels(text) == found
