"""A disk that takes no more, a folder that cannot be written, a file replaced while it is read, a clock set back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tlora_ref as tr
from tests.faults.kill import COMMANDS, Bench, contents
from tests.tiny import tiny_llama
from tlora_ref.checkpoint import load
from tlora_ref.checkpoint.mapping import unchanged
from tlora_ref.checkpoint.reader import read_header, read_tensors
from tlora_ref.cli.main import main
from tlora_ref.errors import CheckpointError
from tlora_ref.files import claimed
from tlora_ref.oracle.traces import Trace

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits on files are Linux's")
FULL = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); "
FULL += "from tlora_ref.__main__ import main; sys.argv[0] = 'tlora-ref'; main()"
#: Those that write something of which a clock is no part, but in manifest.json: each twice.
TWICE = ("init", "train", "trace", "merge", "export", "explain", "generate", "verify")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What every command reads."""
    return Bench.set_up(tmp_path_factory.mktemp("bench"), [])


def filled(bench: Bench, name: str, out: Path) -> list[str]:
    """The arguments of a command, and by which it writes over what is there."""
    return bench.command(name, out)[3:]


@LINUX
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_full_disk(name: str, bench: Bench, tmp_path: Path) -> None:
    """No file may have more than 64 bytes: one line says so, the status is 2, and nothing half-written is left."""
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", FULL, *filled(bench, name, tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr and "File too large" in ended.stderr.splitlines()[-1], ended.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size >= 64]
    hidden = list(tmp_path.rglob(".*"))
    assert left == [] and hidden == []


@LINUX
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_folder_that_cannot_be_written(name: str, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """/proc takes no files, not even the superuser's."""
    with pytest.raises(SystemExit) as ended:
        main(filled(bench, name, Path("/proc/self/fdinfo")))
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "/proc/self" in said[-1] and said[-1].startswith("error: ")


@pytest.mark.parametrize("name", TWICE)
def test_the_same_command_writes_the_same_bytes(name: str, bench: Bench, tmp_path: Path) -> None:
    """Every file, byte for byte; the seconds that it took are in manifest.json, and there alone."""
    out, found = tmp_path / "out", []
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with pytest.raises(SystemExit) as ended:
            main(filled(bench, name, out))
        assert not ended.value.code
        found.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert found[0].keys() == found[1].keys()
    assert [str(path) for path in found[0] if found[0][path] != found[1][path]] in ([], ["manifest.json"])
    assert found[0]


def test_the_same_study_has_the_same_results(bench: Bench, tmp_path: Path) -> None:
    """But for what each run took, seconds and memory, which stand in no other file."""
    lines = []
    for name in ("one", "other"):
        with pytest.raises(SystemExit) as ended:
            main(filled(bench, "study", tmp_path / name))
        assert not ended.value.code
        assert [path.name for path in (tmp_path / name).iterdir()] == ["study.jsonl"]
        found = [json.loads(line) for line in (tmp_path / name / "study.jsonl").read_text().splitlines()]
        measured = [(run.pop("seconds"), run.pop("peak_bytes")) for run in found[1:]]
        assert len(measured) == 2
        lines.append(json.dumps(found))
    assert lines[0] == lines[1]


def test_the_same_run_has_the_same_page(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`report`, as a page and on the terminal, and `preview`: nothing that they say is of the moment."""
    with pytest.raises(SystemExit):
        main(filled(bench, "train", tmp_path / "run"))
    preview = ["preview", str(bench.folder / "model"), "--data", str(bench.folder / "data.jsonl"), "--forward"]
    said = []
    for _ in range(2):
        capsys.readouterr()
        for arguments in (["report", str(tmp_path / "run"), "--html", str(tmp_path / "page.html")], preview):
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert not ended.value.code
        said.append((capsys.readouterr().out, (tmp_path / "page.html").read_bytes()))
        (tmp_path / "page.html").unlink()
    assert said[0] == said[1]


def changed(way: str, file: Path, other: Path) -> None:
    """`file` becomes `other`, or goes, or is cut, in this way."""
    if way == "replaced":
        os.replace(other, file)
    elif way == "removed":
        file.unlink()
    elif way == "overwritten":
        file.write_bytes(other.read_bytes())  # as cp does: the same file, other bytes
    elif way == "cut":
        os.truncate(file, 100)
    elif way == "emptied":
        os.truncate(file, 0)
    elif way == "longer":
        with file.open("ab") as end:
            end.write(b"more")


WAYS = ("replaced", "removed", "overwritten", "cut", "emptied", "longer")


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_change_while_they_are_read(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first tensor. A mapping holds on to the file, not to its name: what replaced it is not read. Where the
    file itself is written to, an error says so; the process is not ended by the system, and no mixture is loaded."""
    for seed, name in enumerate(("model", "other")):
        tr.save_model(tiny_llama(seed), tmp_path / name)
    right = tr.load_model(tmp_path / "model")([[3, 4, 5]]).logits
    file, other = (tmp_path / name / "model.safetensors" for name in ("model", "other"))
    calls = iter([way])
    monkeypatch.setattr(load, "check_finite", lambda *_: changed(next(calls, ""), file, other))
    if way in ("replaced", "removed"):
        np.testing.assert_array_equal(tr.load_model(tmp_path / "model")([[3, 4, 5]]).logits, right)
        return
    with pytest.raises(CheckpointError, match=r"model\.safetensors: was written to while it was read"):
        tr.load_model(tmp_path / "model")


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_and_an_adapter_that_change_while_they_are_read(way: str, bench: Bench, tmp_path: Path) -> None:
    for name in ("golden", "other", "adapter"):
        shutil.copytree(bench.folder / name.replace("other", "golden"), tmp_path / name)
    trace = Trace(tmp_path / "golden")
    name = next(name for name in trace.names() if name.startswith("covariance/"))
    right = trace.get(name).copy()
    changed(way, tmp_path / "golden" / "trace.safetensors", tmp_path / "other" / "trace.safetensors")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensor = next(iter(read_tensors(read_header(file)[0]).values()))
    changed(
        way,
        file,
        bench.folder / "golden" / "trace.safetensors" if way != "replaced" else tmp_path / "other" / "manifest.json",
    )
    if way in ("replaced", "removed"):
        np.testing.assert_array_equal(trace.get(name), right)
        with unchanged(tensor):
            assert np.isfinite(tensor).all()
        return
    with pytest.raises(CheckpointError, match=r"trace\.safetensors: was written to"):
        trace.get(name)
    with pytest.raises(CheckpointError, match=r"trace\.safetensors: was written to"):
        trace.not_finite()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: was written to"), unchanged(tensor):
        raise AssertionError("read")


def test_a_file_that_is_replaced_between_its_header_and_its_tensors(tmp_path: Path) -> None:
    """What the one's header says of the other's bytes is nothing."""
    for seed, name in enumerate(("model", "other")):
        tr.save_model(tiny_llama(seed), tmp_path / name)
    entries, _ = read_header(tmp_path / "model" / "model.safetensors")
    changed("replaced", *(tmp_path / name / "model.safetensors" for name in ("model", "other")))
    with pytest.raises(CheckpointError, match="was written to"):
        read_tensors(entries)


def test_a_clock_that_is_set_back(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock runs backwards: the run is the same."""
    with pytest.raises(SystemExit):
        main(filled(bench, "train", tmp_path / "right"))
    now = iter(range(2_000_000_000, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    with pytest.raises(SystemExit) as ended:
        main(filled(bench, "train", tmp_path / "back"))
    assert not ended.value.code
    right, back = contents(tmp_path / "right"), contents(tmp_path / "back")
    kept = {name for name in right if name.endswith((".safetensors", "history.jsonl"))}
    assert kept and {name: right[name] for name in kept} == {name: back[name] for name in kept}


@pytest.mark.parametrize("name", ["train", "study"])
def test_two_runs_into_one_folder(name: str, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused, by the name of the folder, and the first one's files stand."""
    out = tmp_path / "out"
    with claimed(out):
        with pytest.raises(SystemExit) as ended:
            main(filled(bench, name, out))
        assert ended.value.code == 2
        assert f"{out}: another run is writing into this folder now" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == [".lock"]
