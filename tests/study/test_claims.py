"""Verdicts follow from the runs; the committed page is what its command makes of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
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
    return [Results(dict(STUDY), runs, len(runs))]


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
    after = "" if found.stands or verdict not in ("reproduced", "not reproduced") else ", not after correction"
    q = "" if found.q is None else f"{found.q:.2g}"
    assert f"| a beats b | Table 0 | **{verdict}**{after} | {q} |" in page([found], results(first, second), "make")
    (elsewhere,) = judge([Claim("x", "", "another", {"variant": "a"}, {"variant": "b"})], results(first, second))
    assert elsewhere.verdict == "not measured" and elsewhere.figures == ""


def test_q_is_of_all_claims_and_our_own_stand_apart() -> None:
    claim = {"study": "s", "less": {"variant": "a"}, "than": {"variant": "b"}}
    claims = [Claim("theirs", "Table 0", **claim), Claim("ours", "", **claim), Claim("open", "Table 1", larger="a GPU")]
    first, second = [1.0, 1.1, 1.2, 1.0, 1.1], [2.0, 2.2, 2.3, 2.0, 2.1]
    theirs, ours, open_ = found = judge(claims, results(first, second))
    pairs = np.subtract(first, second)
    t = pairs.mean() / (pairs.std(ddof=1) / np.sqrt(5))
    # two-sided, four degrees of freedom: 1 - I = 1/2 + 3/4 s (1 - s^2 / 3), s = t / sqrt(4 + t^2)
    s = abs(t) / np.sqrt(4 + t * t)
    p = 1 - 1.5 * s * (1 - s * s / 3)
    # equal p: m / rank is 1 for the last, and the rule's factor 1 + 1/2
    assert theirs.q == pytest.approx(1.5 * p, rel=1e-6) and ours.q == theirs.q and open_.q is None
    made = page(found, results(first, second), "make")
    above, below = made.split("## Comparisons of our own")
    assert "| theirs | Table 0 | **reproduced** |" in above and "**reproduced**, 1 (1 after correction):" in above
    assert "| ours |  | **yes** |" in below.split("## The studies")[0]
    assert "of the 2 comparisons" in below and "Of 2 that the interval decides, 2 have" in below


def test_rates_by_variant_are_told_by_their_span() -> None:
    found = results([1.0, 1.1], [2.0, 2.2])[0]
    found.study["learning_rates"] = {"a": [0.1, 0.3], "b": [0.01]}
    assert "| 0.01 to 0.3, by variant |" in page([], [found], "make")


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
