"""What a notebook prints for a trace, a report and a finding: short, and with what one looks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.gallery import GALLERY
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.oracle.reports.checks import CheckResult, KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.traces import Manifest, Trace, TraceWriter

MODEL = tiny_llama(seed=1)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "trace"
    tr.trace(MODEL, tiny_samples(2, seed=1), folder, r_init=2, alpha=3.0, steps=2, noise=False)
    return folder


def short(value: object) -> str:
    text = repr(value)
    assert len(text.splitlines()) <= 10 and max(map(len, text.splitlines())) <= 500, text
    return text


def test_a_trace_says_what_run_it_is_of_and_what_it_holds(golden: Path) -> None:
    trace = Trace(golden)
    text = short(trace)
    assert text.startswith(
        f"Trace {golden} (profile paper, float64): {len(MODEL.shapes())} modules at r_init 2, alpha 3"
    )
    assert "2 samples, 2 steps" in text and "samples: input_ids, labels, loss, sensitivity, tokens, input_sum" in text
    assert f"covariance {len(MODEL.shapes())}, " in text and f"A {len(trace.modules('A'))}, " in text
    assert "grad_B, B, exp_avg, exp_avg_sq, loss, lr" in text
    assert short(trace.manifest).startswith("Manifest (profile paper, float64)")
    writer = TraceWriter(Manifest(modules=trace.manifest.modules, r_init=2, alpha=3.0))
    assert "\n" not in short(writer)
    writer.add("sample/0/loss", np.float64(1.0))
    assert short(writer).splitlines()[1:] == ["  samples: loss"]


def test_a_report_says_its_verdict_and_every_stage(golden: Path) -> None:
    report = tr.compare(golden, golden)
    lines = short(report).splitlines()
    assert lines[0] == "Report: right in 7 of 9 stages; 2 in part (A, gradient)"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        *("loss", "covariance", "sensitivity", "ranks", "scales", "A", "gradient", "adamw", "merge")
    ]
    assert "gradient: pass" in repr(report) and "step 1 alone" in str(report)
    loss = short(report.findings[0])
    assert loss.startswith("Finding (pass: loss (Alg. 1, line 8") and "value" not in loss
    assert short(report.findings[0].verdict).startswith("Verdict (right): loss, loss of sample 0")
    assert short(Report([])).splitlines()[0] == "Report: nothing could be checked"


def test_a_kit_report_says_its_verdict_and_the_stages_that_do_not_pass() -> None:
    wrong = next(w for w in GALLERY if w.name == "C summed").function
    report = tr.check_implementation(SimpleNamespace(covariance=wrong), examples=4, shrink=False)
    lines = short(report).splitlines()
    assert lines[0].startswith(
        "KitReport (profile paper, float64): wrong: the first failing stage is covariance; likely"
    )
    assert "covariance: failed, typical" in lines[2] and lines[-1] == "  and 2 more stages"
    failed = report.of("failed")[0]
    assert short(failed).startswith("CheckResult (failed: covariance/typical") and "array" not in repr(failed)
    right = KitReport([CheckResult("loss/typical", "note", "passed", 3)], "paper", "float64")
    assert (
        repr(right)
        == "KitReport (profile paper, float64): right: every check of what is there passes; 1 of 1 checks pass"
    )
