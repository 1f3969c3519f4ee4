"""Verdicts follow from the runs; the committed page is what its command makes of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.study.test_analysis import run
from tlora_ref.errors import ConfigError
from tlora_ref.study.claims import Claim, judge, load_claims
from tlora_ref.study.claims_page import page
from tlora_ref.study.results import Results

STUDIES = Path(__file__).resolve().parents[2] / "examples" / "studies"
STUDY = {"name": "s", "baseline": "b", "learning_rates": [0.1], "steps": 1, "batch_size": 1}


def results(first: list[float], second: list[float]) -> list[Results]:
    runs = [run(v, 0.1, s, 1.0, x, phi=0.5) for v, its in (("a", first), ("b", second)) for s, x in enumerate(its)]
    return [Results(STUDY, runs, len(runs))]


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([1.0, 1.1, 1.2, 1.0, 1.1], [2.0, 2.2, 2.3, 2.0, 2.1], "reproduced"),
        ([2.0, 2.2, 2.3, 2.0, 2.1], [1.0, 1.1, 1.2, 1.0, 1.1], "not reproduced"),
        ([1.0, 1.2, 0.7, 1.0, 1.0], [1.1, 1.0, 0.8, 1.1, 0.9], "undecided"),
        ([1.0, 1.1, 1.2, 1.0], [2.0, 2.2, 2.3, 2.0], "undecided"),
        ([1.0], [2.0], "not measured"),
        ([], [2.0, 3.0], "not measured"),
    ],
)
def test_a_verdict_is_the_intervals(first: list[float], second: list[float], verdict: str) -> None:
    claim = Claim("a beats b", "Table 0", "s", {"variant": "a"}, {"variant": "b"})
    (found,) = judge([claim], results(first, second))
    assert found.verdict == verdict
    assert f"| a beats b | Table 0 | **{verdict}** |" in page([found], results(first, second), "make")
    (elsewhere,) = judge([Claim("x", "", "another", {"variant": "a"}, {"variant": "b"})], results(first, second))
    assert elsewhere.verdict == "not measured" and elsewhere.figures == ""


def test_a_figure_and_a_larger_model() -> None:
    claims = [
        Claim("near", "App. B.1", "s", measure="phi", of={"variant": "a"}, paper="0.908"),
        Claim("large", "", larger="a GPU"),
    ]
    near, large = judge(claims, results([1.0, 2.0], [1.0, 2.0]))
    assert near.verdict == "measured" and near.figures == "phi: a 0.5 (mean of 2 seeds), the paper's 0.908"
    assert (large.verdict, large.figures) == ("needs a larger model", "a GPU")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "a list of claims"),
        ("- {claim: a}", "`where`"),
        ("- {claim: a, where: b, les: {}}", "did you mean less?"),
        ("- {claim: a, where: b}", "expected a study"),
        ("- {claim: a, where: b, study: s, less: {variant: x}}", "expected a study"),
        ("- {claim: a, where: b, study: s, less: {varient: x}, than: {variant: y}}", "did you mean variant?"),
        ("[", "not valid YAML"),
    ],
)
def test_what_is_no_claim_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "claims.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_claims(tmp_path / "claims.yaml")
    assert said in str(refused.value)


def test_the_page_is_what_its_command_makes() -> None:
    made = runpy.run_path(str(STUDIES / "make_page.py"))["made"]()
    assert (STUDIES / "README.md").read_text(encoding="utf-8") == made


def test_every_claim_names_a_shipped_study() -> None:
    for claim in load_claims(STUDIES / "claims.yaml"):
        assert claim.larger or list(STUDIES.rglob(f"{claim.study}.yaml")), claim.claim
