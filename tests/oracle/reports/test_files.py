"""Reports as files: JSON, JUnit XML and a page say the verdict, all findings, both sides; and as an assertion."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import tlora_ref as tr
from tests.oracle.altered import MODEL, changed, replaced, without
from tests.oracle.kit.test_vectors import VECTORS, answer, write
from tlora_ref.cli.main import main
from tlora_ref.errors import ConfigError
from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.implementation import Reference
from tlora_ref.oracle.kit.vectors import Vectors
from tlora_ref.oracle.order import ORDER
from tlora_ref.oracle.reports.about import code
from tlora_ref.oracle.reports.checks import EXPECTED, FAILED, PASSED, SKIPPED, UNEXPECTED, CheckResult, KitReport
from tlora_ref.oracle.reports.comparison import Report
from tlora_ref.oracle.reports.files import write_report
from tlora_ref.oracle.reports.finding import Finding
from tlora_ref.oracle.reports.sheet import sheet_of
from tlora_ref.oracle.verdict import Verdict

HOSTILE = "<script>alert(1)</script> & \x00\x1b[31m \"'"


def wrong(golden: Path, folder: Path) -> Path:
    """Every C is 1 % too large."""
    return changed(golden, folder, replaced(r"covariance/.*", lambda tensors, name: tensors[name] * 1.01))


def written(report: Report | KitReport, folder: Path, suffix: str) -> str:
    write_report(report, folder / "made" / f"report{suffix}")
    return (folder / "made" / f"report{suffix}").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would see, and what it would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_json_has_every_finding_with_its_bound_and_the_digests_of_both_sides(golden: Path, tmp_path: Path) -> None:
    candidate = wrong(golden, tmp_path / "c")
    report = tr.compare(golden, candidate, checkpoint=MODEL)
    values = json.loads(written(report, tmp_path, ".json"))
    assert (values["passed"], values["first_failing"]) == (False, "covariance")
    assert len(values["findings"]) == len(report.findings) > len(report.to_dict()["findings"])
    assert {f["stage"] for f in values["findings"]} == set(ORDER)
    for side, folder in (("golden", golden), ("candidate", candidate)):
        for file in ("trace.safetensors", "manifest.json"):
            expected = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            assert values["about"][side]["sha256"][file] == expected
    assert values["about"]["golden"]["sha256"] != values["about"]["candidate"]["sha256"]
    assert values["about"]["judge"]["numpy"] == np.__version__
    assert values["about"]["golden"]["checkpoint"]["tensors_sha256"]


@pytest.mark.parametrize("plant", [wrong, lambda golden, _: golden])
def test_junit_fails_what_fails_and_counts_it(golden: Path, tmp_path: Path, plant) -> None:
    report = tr.compare(golden, plant(golden, tmp_path / "c"))
    root = ET.fromstring(written(report, tmp_path, ".xml"))
    suites = {suite.get("name"): suite for suite in root}
    assert [name.split(" (")[0] for name in suites] == [*ORDER, "verdict"]
    cases = root.findall("./testsuite/testcase")
    assert len(cases) == len(report.findings) + 1 == int(root.get("tests", 0))
    failures = len(report.of("fail")) + len(report.of("cascade")) + (not report.passed)
    assert len(root.findall(".//failure")) == failures == int(root.get("failures", -1))
    assert len(root.findall(".//skipped")) == len(report.of("skip")) == int(root.get("skipped", -1))
    for suite in root:
        assert len(suite.findall("testcase")) == int(suite.get("tests", -1))
        assert len(suite.findall("*/failure")) == int(suite.get("failures", -1))
    properties = {p.get("name"): p.get("value") for p in suites["verdict"].iter("property")}
    assert properties["golden, sha256, manifest.json"] == report.about["golden"]["sha256"]["manifest.json"]
    assert properties["tolerance, dtype"] == "float64"


def test_junit_fails_where_what_was_required_was_not_judged(golden: Path, tmp_path: Path) -> None:
    root = ET.fromstring(written(tr.compare(golden, golden, require=["gradient"]), tmp_path, ".xml"))
    (failure,) = root.findall(".//failure")
    assert "required, and not judged in full: gradient" in (failure.text or "")


def test_a_page_shows_stages_by_modules_and_needs_nothing_else(golden: Path, tmp_path: Path) -> None:
    report = tr.compare(golden, wrong(golden, tmp_path / "c"))
    text = written(report, tmp_path, ".html")
    page = Page(text)
    said = " ".join(page.texts)
    assert report.headline in said and all(f.line() in said for f in report.of("fail")[:200])
    assert all(module in page.texts for module in MODEL.shapes())
    assert {"Stages", "Modules by stages", *ORDER} <= set(page.texts)
    assert report.about["candidate"]["sha256"]["trace.safetensors"] in page.texts
    assert set(page.addresses) <= {"data:,", "#numbers"} and not {"script", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text and 'content="default-src' in text
    # a field of the table: C of a module is wrong, with the largest of its errors in units of its bound
    module = next(iter(MODEL.shapes()))
    cell = sheet_of(report).cells()[module]["covariance"][0]
    verdicts = [f.verdict for f in report.findings if f.module == module and f.stage == "covariance" and f.verdict]
    assert cell.meaning == "wrong" and cell.share == max(v.error / v.allowed for v in verdicts if not v.passed)
    assert f"✗ {cell.share:.1g}" in page.texts


def hostile() -> list[Report | KitReport]:
    verdict = Verdict("A", HOSTILE, False, float("inf"), 1.0, got=float("nan"), expected=1.0, cause=HOSTILE)
    finding = Finding("A", "golden", HOSTILE, verdict, "fail")
    result = CheckResult(f"loss/{HOSTILE}", HOSTILE, FAILED, 1, HOSTILE, verdict, cause=HOSTILE)
    sides = {"golden": {"folder": HOSTILE}}
    return [Report([finding], {HOSTILE: HOSTILE}, about=sides), KitReport([result], HOSTILE, "float64", about=sides)]


@pytest.mark.parametrize("number", range(2))
def test_names_from_elsewhere_are_text_in_every_form(tmp_path: Path, number: int) -> None:
    report = hostile()[number]
    values = json.loads(written(report, tmp_path, ".json"), parse_constant=lambda name: pytest.fail(name))
    assert HOSTILE in json.dumps(values, ensure_ascii=False).encode().decode("unicode_escape")
    said = "".join(ET.fromstring(written(report, tmp_path, ".xml")).itertext())
    assert "<script>alert(1)</script> & ��[31m" in said
    page = Page(written(report, tmp_path, ".html"))
    assert "script" not in page.tags and "<script>alert(1)</script>" in "".join(page.texts)


def test_the_kit_s_report_says_what_passed_what_did_not_and_whose_code_it_was(tmp_path: Path) -> None:
    class Mine:
        def covariance(self, inputs: list[np.ndarray]) -> np.ndarray:
            return np.asarray(sum(X.T @ X for X in inputs))

        loss = Reference().loss

    report = tr.check_implementation(Mine(), examples=3, stages=["loss", "covariance", "merge"], shrink=False)
    root = ET.fromstring(written(report, tmp_path, ".xml"))
    by = {status: len(report.of(status)) for status in (PASSED, FAILED, SKIPPED)}
    assert by[PASSED] and by[FAILED] and by[SKIPPED]
    assert len(root.findall(".//failure")) == by[FAILED] + 1 and len(root.findall(".//skipped")) == by[SKIPPED]
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    properties = {p.get("name"): p.get("value") for p in root.iter("property")}
    assert properties[f"candidate, sha256, {__file__}"] == here and (properties["candidate, name"] or "").endswith(
        "Mine"
    )
    page = Page(written(report, tmp_path, ".html"))
    assert {"Checks by stages", "covariance", "typical", here} <= set(page.texts) and report.headline in " ".join(
        page.texts
    )
    assert json.loads(written(report, tmp_path, ".json"))["about"]["golden"] == {
        **{"cases": "generated", "examples": 3, "seed": 0}
    }


def test_code_is_known_by_the_files_of_its_functions() -> None:
    """Wherever the object comes from: a namespace of functions of this file, beside what is built in."""
    functions = {"loss": hostile, "covariance": Reference().covariance, "merge": len}
    found = code(SimpleNamespace(**functions), functions)
    assert found["name"] == "types.SimpleNamespace"
    assert set(found["sha256"]) == {str(Path(__file__)), inspect.getsourcefile(Reference)}


def test_expected_failures_are_no_failures_and_unexpected_passes_are(tmp_path: Path) -> None:
    results = [
        CheckResult("loss/a", "n", PASSED, 1),
        CheckResult("loss/b", "n", EXPECTED, 1, "known"),
        CheckResult("loss/c", "n", UNEXPECTED, 1, "known"),
    ]
    root = ET.fromstring(written(KitReport(results, "paper", "float64"), tmp_path, ".xml"))
    assert len(root.findall(".//failure")) == 2 and len(root.findall(".//skipped")) == 1
    root = ET.fromstring(written(KitReport(results[:2], "paper", "float64"), tmp_path, ".xml"))
    assert not root.findall(".//failure")


def test_assert_right_returns_the_report_or_raises_with_its_lines(golden: Path, tmp_path: Path) -> None:
    found = tr.assert_right(golden, golden, report=tmp_path / "right.json")
    assert found.passed and json.loads((tmp_path / "right.json").read_text())["passed"]
    candidate = wrong(golden, tmp_path / "c")
    with pytest.raises(AssertionError) as caught:
        tr.assert_right(golden, candidate, checkpoint=MODEL, report=tmp_path / "wrong.html")
    lines = str(caught.value).splitlines()
    report = tr.compare(golden, candidate, checkpoint=MODEL)
    assert lines[-1] == report.headline and report.of("fail")[0].line() in lines and "covariance: fail" in str(lines)
    assert (tmp_path / "wrong.html").is_file()
    with pytest.raises(AssertionError, match="required, and not judged in full: merge"):
        tr.assert_right(golden, changed(golden, tmp_path / "d", without("merged/.*")), require=["merge"])


def test_assert_right_takes_vectors(tmp_path: Path) -> None:
    outputs, refused = answer(Vectors(VECTORS / "paper"), Reference())
    right = write(tmp_path / "right", outputs, refused)
    assert isinstance(tr.assert_right(VECTORS / "paper", right, report=tmp_path / "right.xml"), KitReport)
    outputs, refused = answer(Vectors(VECTORS / "paper"), Reference(PROFILES["released"]))
    with pytest.raises(AssertionError, match="the first failing stage is covariance"):
        tr.assert_right(VECTORS / "paper", write(tmp_path / "wrong", outputs, refused))


@pytest.mark.parametrize("name", ["report.txt", "report", "folder.html"])
def test_a_report_without_a_form_is_refused_before_anything_is_read(tmp_path: Path, name: str, capsys) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ConfigError, match=r"suffix|folder: give"):
        tr.assert_right("nowhere", "nowhere", report=tmp_path / name)
    for command in (["verify", "nowhere", "nowhere"], ["check", "nowhere.py"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--report", str(tmp_path / name)])
        assert ended.value.code == 2 and "the report" in capsys.readouterr().err


def test_verify_and_check_write_it_right_or_wrong(golden: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.py").write_text("def covariance(inputs):\n    return sum(X.T @ X for X in inputs)\n")
    runs = {
        "wrong.xml": (1, ["verify", golden, wrong(golden, tmp_path / "c")]),
        "right.html": (0, ["verify", golden, golden]),
        "check.json": (1, ["check", tmp_path / "mine.py", "--examples", "2"]),
    }
    for name, (status, words) in runs.items():
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--report", str(tmp_path / name)])
        assert (ended.value.code or 0) == status and f"wrote {tmp_path / name}" in capsys.readouterr().out
        assert (tmp_path / name).is_file()
    about = json.loads((tmp_path / "check.json").read_text())["about"]["candidate"]
    assert about["sha256"][str(tmp_path / "mine.py")] == hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("whys", "said"),
    [
        ([f"sample {n}: no loss" for n in range(12)], ["samples 0 to 11: no loss"]),
        (
            ["step 3: no batch", "step 1: no batch", "step 1: no A", "other"],
            ["other", "step 1: no A", "steps 1, 3: no batch"],
        ),
        (["step 2: no A", "step 2: no A", "sample 2: no A"], ["sample 2: no A", "step 2: no A"]),
    ],
)
def test_what_is_said_of_several_samples_is_said_once(whys: list[str], said: list[str]) -> None:
    findings = [Finding("loss", "golden", None, None, "skip", why) for why in whys]
    report = Report(findings)
    assert [line for line in report.lines() if "not checked" in line] == [f"not checked: loss: {s}" for s in said]
    assert report.rows()[0][3] == "; ".join(said)
