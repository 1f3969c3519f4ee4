"""A model, data and a way to run commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import tlora_ref as tr
from tests.tiny import tiny_llama, tiny_samples
from tlora_ref.cli.main import main

#: A command's exit status, standard output and standard error.
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model with a tokenizer of words w0 ... w30, and data of tokens and of text."""
    tr.save_model(tiny_llama(), tmp_path / "model")
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(31)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(tmp_path / "model" / "tokenizer.json"))
    (tmp_path / "data").mkdir()
    for split, n in (("train", 8), ("valid", 3), ("test", 3)):
        lines = [json.dumps(sample) for sample in tiny_samples(n, seed=len(split))]
        (tmp_path / "data" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = [json.dumps({"question": f"w{i} w2", "reply": f"w{i} w{i}"}) for i in range(3, 9)]
    (tmp_path / "text.jsonl").write_text("\n".join(text), encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err and "\x1b" not in captured.out + captured.err
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def trained(folder: Path, run: Run) -> Path:
    common = ("--samples", 2, "--rank", 3, "--batch-size", 4, "--lr", 0.02, "--steps", 3)
    assert run("train", folder / "model", "--data", folder / "data", "--out", folder / "run", *common)[0] == 0
    return folder
