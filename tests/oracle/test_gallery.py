"""Every wrong TLoRA of the gallery is caught, where it was planted, and mostly with its cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tlora_ref as tr
from tests.oracle.gallery import GALLERY, Wrong
from tests.oracle.stages.cases import cases
from tests.oracle.wrong_runs import record
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.judge import judge
from tlora_ref.oracle.precision import Precision

MODEL = tiny_llama(seed=3)
SAMPLES: list[dict[str, Any]] = tiny_samples(3, seed=4)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "trace"
    tr.trace(MODEL, SAMPLES, folder, r_init=2, alpha=3.0, steps=2)
    return folder


def test_the_gallery_is_large_and_mostly_explained() -> None:
    assert len(GALLERY) >= 40 and len({wrong.name for wrong in GALLERY}) == len(GALLERY)
    assert sum(wrong.cause is not None for wrong in GALLERY) >= 30


def test_the_reference_made_by_stages_is_right(golden: Path, tmp_path: Path) -> None:
    record(MODEL, SAMPLES, golden, tmp_path / "c", Reference())
    report = tr.compare(golden, tmp_path / "c", checkpoint=MODEL)
    assert report.passed, [finding.line() for finding in report.of("fail")]


@pytest.mark.parametrize("wrong", GALLERY, ids=lambda wrong: wrong.name)
def test_verify_names_the_stage_and_the_cause(wrong: Wrong, golden: Path, tmp_path: Path) -> None:
    record(MODEL, SAMPLES, golden, tmp_path / "c", wrong.implementation())
    report = tr.compare(golden, tmp_path / "c", checkpoint=MODEL)
    assert not report.passed
    assert report.first_failing == wrong.stage, [finding.line()[:200] for finding in report.of("fail")][:4]
    assert {finding.stage for finding in report.of("fail")} == {wrong.stage}  # what follows is called a cascade
    if wrong.cause is not None:
        assert report.cause is not None and wrong.cause in report.cause


@pytest.mark.parametrize("wrong", GALLERY, ids=lambda wrong: wrong.name)
def test_its_judge_sees_it(wrong: Wrong) -> None:
    precision, paper = Precision.of("float64"), PROFILES["paper"]
    caught = False
    for seed in range(12):
        inputs = cases(seed, precision)[wrong.method]
        verdicts = judge(wrong.method, inputs, wrong.function(*inputs.values()) if wrong.method != "adamw_step"
                         else wrong.function(**inputs), switches=paper, precision=precision)  # fmt: skip
        caught = caught or not all(v.passed for v in verdicts)
    assert caught
