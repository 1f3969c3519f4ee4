"""The shipped golden trace: its own manifest's command records it again, here and now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import tlora_ref as tr
from tlora_ref.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "models" / "tiny-math-llama-golden"


def test_its_command_records_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *command = json.loads((GOLDEN / "manifest.json").read_text())["command"]
    assert program == "tlora-ref" and command[-1] == "models/tiny-math-llama-golden"
    with pytest.raises(SystemExit) as stop:
        main([*command[:-1], str(tmp_path / "again")])
    assert not stop.value.code
    report = tr.compare(GOLDEN, tmp_path / "again", checkpoint=ROOT / "models" / "tiny-math-llama")
    assert report.passed, [finding.line() for finding in report.of("fail")][:5]
    assert len(report.of("pass")) > 400 and not report.of("skip")
    old, new = (json.loads((folder / "manifest.json").read_text()) for folder in (GOLDEN, tmp_path / "again"))
    assert old["checkpoint"]["tensors_sha256"] == new["checkpoint"]["tensors_sha256"]
    assert old["data"]["sha256"] == new["data"]["sha256"]


def test_the_page_about_it_shows_that_command() -> None:
    command = " ".join(json.loads((GOLDEN / "manifest.json").read_text())["command"])
    shown = re.findall(r"^(tlora-ref trace .*) --overwrite$", (ROOT / "models" / "README.md").read_text(), re.MULTILINE)
    assert shown == [command]
