"""What a subject of the fuzz harness is, and what several of them are made with."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tlora_ref.cli.main import main
from tlora_ref.errors import TLoRAError

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] | trim }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
#: The commands' flags are looked up once, not for every input.
typer.main.get_command = functools.cache(typer.main.get_command)


@dataclass(frozen=True)
class Subject:
    """`make` fills an empty folder; `use` reads it and works with what it read, raising the library's errors alone.

    `files` are the names of those to be damaged, patterns of `Path.glob`; `weight` is how often its turn comes.
    `anywhere`: a file that a person writes for a command may name any folder, as the command's flags may.
    """

    make: Callable[[Path], Any]
    use: Callable[[Path], Any]
    files: tuple[str, ...] = ("*",)
    weight: int = 1
    anywhere: bool = False


def words(folder: Path) -> None:
    """A tokenizer of words w0 ... w30 and two special tokens, with a chat template, as a checkpoint folder has it."""
    vocabulary = {f"w{i}": i for i in range(29)} | {"<s>": 29, "</s>": 30}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 29)])
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    added = {"29": {"content": "<s>", "special": True}, "30": {"content": "</s>", "special": True}}
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>"},
        "added_tokens_decoder": added,
        "chat_template": CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": {"content": "<s>"}}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [30, 2], "bos_token_id": 29}))


def command(*arguments: str) -> Callable[[Path], None]:
    """A use that is a command: exit status 0, 1 or 2, and nothing else, may come of it; 2 is a refusal."""

    def use(folder: Path) -> None:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                main([argument.format(folder=folder) for argument in arguments])
        except SystemExit as ended:
            if ended.code == 2:
                raise TLoRAError(said.getvalue()) from ended
            if ended.code not in (0, 1, None):
                raise AssertionError(f"exit status {ended.code}") from ended

    return use


def fresh(subject: Subject, folder: Path) -> Path:
    """A sound folder of this subject; an older one goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subject.make(folder)
    return folder
