"""README's two commands, as `.ci/run` extracts and executes them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def extractor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_command", ROOT / ".ci" / "readme_command.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["demo", "test"])
def test_each_command_is_one_line_that_sets_up_by_itself(extractor: ModuleType, name: str) -> None:
    command = extractor.readme_command((ROOT / "README.md").read_text(encoding="utf-8"), name)
    assert "\n" not in command
    assert "pip install" in command
    assert "torch" not in command and "parity" not in command
    for script in re.findall(r"\S+\.py\b", command):
        assert (ROOT / script).is_file(), f"README's command '{name}' runs {script}, which does not exist"


def test_both_are_what_ci_runs() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^readme_command_in_fresh_clone (\w+)$", run, flags=re.MULTILINE) == ["demo", "test"]


def test_the_extractor_takes_the_marked_block_and_no_other(extractor: ModuleType) -> None:
    text = "```bash\nno\n```\n<!-- command: a -->\n```bash\nyes 'a b'\n```\n\n```bash\nneither\n```\n"
    assert extractor.readme_command(text, "a") == "yes 'a b'"


@pytest.mark.parametrize("text", ["", "<!-- command: a -->\n", "<!-- command: a -->\n```bash\nx\n```\n" * 2])
def test_the_extractor_refuses_a_missing_or_doubled_mark(extractor: ModuleType, text: str) -> None:
    with pytest.raises(ValueError, match="expected exactly one"):
        extractor.readme_command(text, "a")


def test_the_page_of_an_index_leads_to_no_file() -> None:
    """README on a package index: words stay, links to files and pictures go; addresses and places on the page stay."""
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "![a picture](x.svg)\n[a file](a/b.md#c), [`f`](f.py), [paper](https://arxiv.org/abs/1), [here](#here), x[0]"
    assert module.index_page(text) == "\na file, `f`, [paper](https://arxiv.org/abs/1), [here](#here), x[0]"
    page = module.index_page((ROOT / "README.md").read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert targets and all(target.startswith(("https://", "#")) for target in targets)
    assert "The house" in page and "Claim by claim" in page and ".svg" not in page
