"""The pages: every door sign's commands run, its Python runs, its links lead somewhere, and README stays short.

On a page, names in capitals stand for the reader's own: here MODEL and DATA are the shipped model and rows of its task.
A block that is not run carries the reason on the line before it: <!-- not run: REASON -->.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tlora_ref as tr
from tlora_ref.cli.main import main
from tlora_ref.data import encode_rows, load_dataset

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "tiny-math-llama"
README_WORDS = 1200
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(page for room in ("tlora_ref", "tests", "models", "examples") for page in (ROOT / room).rglob("*.md")),
    ]
)
#: What stands for what: a name that has one meaning on all pages.
PLACES = {"MODEL": str(MODEL), "CANDIDATE": "GOLDEN", "FILE": "reviews.jsonl"}

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n+)?^```(?P<kind>\w*)\n(?P<text>.*?)\n```$", flags=re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    mark: str

    @property
    def not_run(self) -> bool:
        """CI runs README's two marked commands in fresh clones; other blocks say why they are not run."""
        return self.mark.startswith(("not run: ", "command: "))


def blocks(page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(page):
        yield Block(found["kind"], found["text"], found["mark"] or "")


def placed(text: str) -> str:
    return re.sub(r"\b(" + "|".join(PLACES) + r")\b(?!\.)", lambda name: PLACES[name[0]], text)


def command_lines(text: str) -> list[list[str]]:
    lines = (shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def run_command(words: list[str]) -> None:
    """A line of a bash block: the library's own commands are run, of others it is checked that they exist."""
    if words[0] == "tlora-ref":
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert not ended.value.code, words
    elif words[:2] == ["python", "-m"] or words[0] == "python":
        check_python(words[1:])
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file(), words
    elif words[:2] == ["pip", "install"]:
        check_extras(words[2:])
    else:
        raise AssertionError(f"a page has a command that this test does not know: {shlex.join(words)}")


def check_python(words: list[str]) -> None:
    """`python -m tests.module` or `python file.py`: it is there, and it knows the flags. pytest's files are there."""
    if words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).is_file() for word in words[2:] if word.endswith(".py")), words
        return
    path = ROOT / (words[1].replace(".", "/") if words[0] == "-m" else words[0])
    source = next((p for p in (path, path.with_suffix(".py"), path / "__main__.py") if p.is_file()), None)
    assert source is not None, f"{shlex.join(words)}: there is no such program"
    text = source.read_text(encoding="utf-8")
    for flag in (word for word in words if word.startswith("--")):
        assert f'"{flag}"' in text, f"{shlex.join(words)}: {source} has no flag {flag}"


def check_extras(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        for extra in re.findall(r"\[(.*)\]", word):
            assert set(extra.split(",")) <= set(extras), f"{word}: pyproject.toml has no such extra"


# ---- what a page's reader has at hand ----


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    """What the pages' Python goes on from: a model with its statistics, plan and tokenizer, and samples."""
    model, tokenizer = tr.load_model(MODEL, dtype="float32"), tr.load_tokenizer(MODEL)
    samples = encode_rows(load_dataset(MODEL / "task"), tokenizer, max_length=256)[0][:8]
    stats = tr.calibrate(model, samples)
    plan = tr.allocate(stats.sensitivity, model.shapes(), 2, 2)
    return {"model": model, "tokenizer": tokenizer, "samples": samples, "stats": stats, "plan": plan}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the reader's data and code, in which the page is worked through."""
    (tmp_path / "DATA").mkdir()
    for split in ("train", "valid", "test"):
        rows = (MODEL / "task" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()[:32]
        (tmp_path / "DATA" / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "mine.py").write_text(
        "def covariance(inputs):\n    return sum(X.T @ X for X in inputs) / len(inputs)\n"
    )
    reviews = ['{"sentence": "a fine film", "label": 1}', '{"sentence": "a dull film", "label": 0}'] * 16
    (tmp_path / "reviews.jsonl").write_text("\n".join(reviews), encoding="utf-8")
    shutil.copytree(MODEL, tmp_path / "models" / MODEL.name)  # pages beside the models are read in the project's folder
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_marks(page: Path) -> Any:
    """A page whose Python needs torch is a test of parity."""
    needs = any(
        b.kind == "python" and "import torch" in b.text and not b.not_run for b in blocks(page.read_text("utf-8"))
    )
    return pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=[pytest.mark.parity] * needs)


RUNNABLE = [page for page in PAGES if any(b.kind in ("bash", "python") for b in blocks(page.read_text("utf-8")))]


@pytest.mark.parametrize("page", [with_marks(page) for page in RUNNABLE])
def test_the_page_runs_from_top_to_bottom(page: Path, desk: Path, prepared: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    if "import torch" in text:
        pytest.importorskip("torch")
    adapter = tr.initialize(prepared["model"], prepared["stats"], prepared["plan"])
    names = {"__name__": "page", "tr": tr, "np": np, **prepared, "adapter": adapter}
    try:
        for block in blocks(text):
            if block.not_run:
                continue
            if block.kind == "bash":
                for words in command_lines(placed(block.text)):
                    run_command(words)
            elif (file := re.match(r"# (\w+\.py)\n", block.text)) and block.kind == "python":
                (desk / file[1]).write_text(block.text, encoding="utf-8")
            elif block.kind == "python":
                exec(compile(placed(block.text), str(page), "exec"), names)
    finally:
        prepared["model"].detach()


@pytest.mark.parametrize("page", [pytest.param(p, id=p.relative_to(ROOT).as_posix()) for p in PAGES])
def test_the_links_of_the_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page}: {target} leads nowhere"
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_readme_is_short_and_names_seven_files_to_read() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= README_WORDS
    reading = re.findall(r"^\d\. \[[^\]]*\]\(([^)]*)\)", text, flags=re.MULTILINE)
    assert len(reading) == 7 and all((ROOT / file).is_file() for file in reading)


def test_every_family_stands_on_its_door_sign() -> None:
    from tlora_ref.transformer import FAMILIES

    text = (ROOT / "tlora_ref" / "transformer" / "README.md").read_text(encoding="utf-8")
    assert [kind for kind in FAMILIES if f"`{kind}`" not in text] == []


# ---- the test itself notices ----


def refused(run: Callable[[], object]) -> bool:
    try:
        run()
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(
    "line",
    [
        "tlora-ref plan NOWHERE",
        "tlora-ref no-such-command",
        "python -m tests.nothing",
        "python -m pytest examples/nothing.py",
        "python -m tests.benchmarks --no-such-flag",
        "bash nothing.sh",
        "pip install 'tlora-ref[nothing]'",
        "rm -rf /",
    ],
)
def test_a_command_that_does_not_work_is_noticed(line: str, desk: Path) -> None:
    assert refused(lambda: run_command(shlex.split(line)))


def test_blocks_are_found_with_their_marks() -> None:
    page = "<!-- not run: no -->\n```bash\na\n```\n\n```python\nb\nc\n```\n"
    assert list(blocks(page)) == [Block("bash", "a", "not run: no"), Block("python", "b\nc", "")]
    assert [b.not_run for b in blocks(page)] == [True, False]
    assert command_lines("a 'b c'  # d\n\n# e\nf \\\n  g") == [["a", "b c"], ["f", "g"]]
    assert placed("MODEL CANDIDATE MODELS") == f"{MODEL} GOLDEN MODELS"
