"""Files that are whole or not there, leftovers of the dead cleared, one process a folder."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tlora_ref import files
from tlora_ref.checkpoint.write import check_output, new_folder
from tlora_ref.errors import ConfigError, OutputError, reason
from tlora_ref.files import read_yaml


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


#: Writes a folder over an old one in processes of which the n-th ends before its n-th change to the disk, until one
#: gets through. A line each: how it ended, whether the folder has its name, what a reader finds in it, and how many
#: entries there are after the next writer.
KILLED_EVERYWHERE = """
import os, sys
from pathlib import Path
from tlora_ref import files
from tlora_ref.checkpoint.write import new_folder
if sys.argv[2] == "renames":
    import tlora_ref.checkpoint.write
    tlora_ref.checkpoint.write.exchanged = lambda *_: False
folder = Path(sys.argv[1])
target, left = folder / "adapter", 0

def write(text):
    with new_folder(target, overwrite=True) as new:
        for name in ("a", "b"):
            (new / name).write_text(text)

for n in range(1, 100):
    write("old")
    child = os.fork()
    if child == 0:
        def count(event, arguments):
            global left  # the exchange is known by its function being looked up
            left += event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "ctypes.dlsym") or (
                event == "open" and isinstance(arguments[1], str) and "w" in arguments[1])
            if left == n:
                os._exit(9)
        sys.addaudithook(count)
        write("new")
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    there = target.exists()
    found = {(files.recovered(target) / name).read_text() for name in ("a", "b")}
    write("old")
    print(ended, there, *found, len(list(folder.iterdir())))
    if ended == 0:
        break
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_folder_is_whole_wherever_its_writer_is_killed(way: str, tmp_path: Path) -> None:
    """Before every single change that it makes to the disk: a reader finds all of the old one or all of the new one,
    and the next writer clears the rest. Where names can be exchanged, the folder's is never missing."""
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path), way]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [line[0] for line in lines] == ["9"] * (len(lines) - 1) + ["0"] and len(lines) > 8
    texts = [line[2] for line in lines]
    assert all(len(line) == 4 and line[3] == "1" for line in lines), lines  # one text in both files, one folder left
    assert texts == sorted(texts, reverse=True) and set(texts) == {"old", "new"}
    missing = [line for line in lines if line[1] == "False"]
    assert len(missing) == (1 if way == "renames" else 0), lines


def test_what_was_set_aside_comes_back_to_a_reader(tmp_path: Path) -> None:
    """And not while the process that set it aside is alive."""
    target = tmp_path / "adapter"
    mine = files.temporary(target)
    mine = mine.with_name(mine.name + files.SET_ASIDE)
    mine.mkdir()
    assert files.recovered(target) == target and not target.exists()
    mine.rename(mine.with_name(mine.name.replace(f"-{os.getpid()}.", f"-{dead_process()}.")))
    assert files.recovered(target).is_dir() and [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_two_names_are_exchanged(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other é"
    one.mkdir()
    (one / "in").touch()
    other.write_text("x")
    if sys.platform == "linux":
        assert files.exchanged(one, other) and (other / "in").exists() and one.read_text() == "x"
    assert not files.exchanged(one, tmp_path / "absent") and sorted(p.name for p in tmp_path.iterdir()) == [
        "one",
        "other é",
    ]


def test_systems_that_exchange_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no C library of the process to ask; an old one has no such function; some file systems refuse."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()

    def asked(*_: object) -> object:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", asked)
    assert not files.exchanged(one, other)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not files.exchanged(one, other)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(renameat2=lambda *_: -1))
    assert not files.exchanged(one, other)


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


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), "No such file or directory"),
        (OSError("[Errno 28] No space left on device: 'x'"), "No space left on device: 'x'"),
        (RuntimeError("I/O error: Permission denied (os error 13)"), "I/O error: Permission denied"),
        (ValueError("first\n  second"), "first second"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_reason_is_one_line_without_numbers(error: Exception, said: str) -> None:
    assert reason(error) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rank: [", "line 1, column 8: expected the node content, but found '<stream end>'"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is there twice: keep one"),
        ("a: &x 1\nb: *x", "aliases (*name) are not read"),
        ("a: \tb: c", "line 1, column"),
    ],
)
def test_yaml_that_is_none_is_told_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as found:
        read_yaml(tmp_path / "a.yaml")
    assert said in str(found.value) and "\n" not in str(found.value) and "unicode string" not in str(found.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)$"):
        read_yaml(tmp_path / "none.yaml")
