"""Files that are whole or not there, leftovers of the dead cleared, one process a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlora_ref import files
from tlora_ref.checkpoint.write import check_output, new_folder
from tlora_ref.errors import ConfigError, OutputError


def dead_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_process_left_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a[1]"
    name = files.temporary(target).name
    dead, mine = name.replace(f"-{os.getpid()}.", f"-{dead_process()}."), name
    kept = [mine, name.replace(files._host(), "elsewhere"), ".a[1].notes", ".a[1]x.h-1.0a", dead.replace("a[1]", "a1")]
    for entry in (dead, *kept):
        (tmp_path / entry).mkdir()
        (tmp_path / entry / "half").write_text("x")
    (tmp_path / dead.replace(".", "", 1)).write_text("a file of another name")
    files.clear_leftovers(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, dead.replace(".", "", 1)])


def test_a_kill_between_the_two_renames_loses_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "a").write_text("old")
    program = f"""
import os
from pathlib import Path
from tlora_ref.checkpoint.write import new_folder
rename = Path.rename
def once(self, to):
    rename(self, to)
    os._exit(9)
with new_folder({str(target)!r}, overwrite=True) as new:
    (new / "a").write_text("new")
    Path.rename = once
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert not target.exists() and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OutputError, match="already exists"):
        check_output(target, overwrite=False, replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"] and (target / "a").read_text() == "old"


def test_text_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_text(path, "old é")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old é"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 2001-99-99", "month must be"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: 1\nb: {c: 2, d: 3, c: 4}", "the key 'c' is there twice"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("[" * 10_000, "not valid YAML"),
        ("a: [", "not valid YAML"),
    ],
)
def test_yaml_that_cannot_be_read_is_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        files.read_yaml(tmp_path / "a.yaml")


def test_yaml_is_plain_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1, 2.5, x, null, true]\n1: {b: c}\n")
    assert files.read_yaml(tmp_path / "a.yaml") == {"a": [1, 2.5, "x", None, True], 1: {"b": "c"}}
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    for name in ("b.yaml", "none.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            files.read_yaml(tmp_path / name)


def test_a_folder_is_one_processs(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    program = (
        "import sys, time; from pathlib import Path; from tlora_ref.files import claimed\n"
        f"with claimed(Path({str(out)!r})): print('mine', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    with pytest.raises(OutputError, match="another run is writing into this folder"), files.claimed(out):
        raise AssertionError("two at once")
    process.kill()
    process.wait()
    check_output(out)  # what a killed run left there is nothing to be spared
    with files.claimed(out):
        (out / "result").write_text("x")
    assert [p.name for p in out.iterdir()] == ["result"]


def test_a_folder_claimed_for_nothing_goes(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="refused later"), files.claimed(tmp_path / "out"):
        raise OutputError("refused later")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_being_swapped_is_whole(tmp_path: Path) -> None:
    """A writer killed while it fills its folder: the old one stands, and the next writer clears the half."""
    program = (
        "import sys, time; from pathlib import Path; from tlora_ref.checkpoint.write import new_folder\n"
        f"with new_folder(Path({str(tmp_path / 'm')!r}), overwrite=True) as f:\n"
        "    (f / 'half').write_text('x'); print('half', flush=True); time.sleep(60)"
    )
    with new_folder(tmp_path / "m") as folder:
        (folder / "whole").write_text("x")
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    process.kill()
    process.wait()
    assert len(list(tmp_path.iterdir())) == 2 and (tmp_path / "m" / "whole").exists()
    time.sleep(0.05)
    with new_folder(tmp_path / "m", overwrite=True) as folder:
        (folder / "new").write_text("x")
    assert [p.name for p in tmp_path.rglob("*")] == ["m", "new"]
