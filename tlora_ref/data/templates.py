"""Prompt templates: read from a file, filled by plain replacement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from tlora_ref.errors import ConfigError, did_you_mean

#: The template that leaves prompts as they are; the name that stands for the tokenizer's own chat template.
PLAIN, CHAT = "plain", "chat"
#: What others call them; a model's own format is in its tokenizer.
TEMPLATES_ELSEWHERE = {
    **dict.fromkeys(("none", "default", "raw", "empty", "vanilla"), PLAIN),
    **dict.fromkeys(("chatml", "llama2", "llama3", "llama-3", "qwen", "mistral", "gemma", "phi", "auto"), CHAT),
    **dict.fromkeys(("stanford", "alpaca_gpt4"), "alpaca"),
}


@cache
def templates() -> dict[str, dict[str, str]]:
    """All named templates: {name: {"pair": ..., "instruction": ..., "instruction_input": ..., "about": ...}}."""
    text = resources.files("tlora_ref.data").joinpath("templates.yaml").read_text(encoding="utf-8")
    values: dict[str, dict[str, str]] = yaml.safe_load(text)
    return values


def check_template(name: str) -> str:
    """`name`, or a ConfigError that lists the templates there are."""
    if name != CHAT and name not in templates():
        known = [*templates(), CHAT]
        hint = did_you_mean(name, known, TEMPLATES_ELSEWHERE)
        raise ConfigError(f'template "{name}" is unknown: expected one of {", ".join(known)}{hint}')
    return name


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with every {field} replaced by that field, once: braces inside a field are left alone."""
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def prompt_text(name: str, values: Mapping[str, str]) -> tuple[str, str]:
    """(prompt, response) of a pair row under the named template."""
    forms = templates()[check_template(name)]
    if "prompt" in values:
        return fill(forms["pair"], values), values["completion"]
    form = "instruction_input" if values["input"].strip() else "instruction"
    return fill(forms[form], values), values["output"]
