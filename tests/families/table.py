"""The tables of families in `tlora_ref/transformer/README.md`, from what is registered and tested:

python -m tests.families.table --write
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.families.known import KNOWN, ROUNDED
from tests.families.make_tiny import MODELS
from tests.families.recorded import NAMES
from tests.families.test_tokenizer_kinds import test_decode, test_encode, test_end, test_seam
from tests.families.tokenizer_kinds import PUBLISHED
from tlora_ref.transformer import FAMILIES

README = Path(__file__).parents[2] / "tlora_ref" / "transformer" / "README.md"
WRITE = "python -m tests.families.table --write"

#: What has been run with the weights that people download, not with random ones.
REAL = {"llama": ("SmolLM2-135M-Instruct", "models/tiny-math-llama"), "bert": ("all-MiniLM-L6-v2",)}


#: What a tokenizer must do -> the test that it goes through.
TOKENIZING = {"encode": test_encode, "decode": test_decode, "seam": test_seam, "end": test_end}


def compared() -> set[str]:
    """The model types of which transformers' results are recorded (T5's in `tests/data/traces`)."""
    return {"t5", *(MODELS[name]["model_type"] for name in NAMES)}


def known(model_type: str) -> list[str]:
    """The known checkpoints of a family and their weights in millions or billions."""
    counts = {name: count for name, (count, values) in KNOWN.items() if values["model_type"] == model_type}
    counts |= {name: int(n * 1e9) for name, (n, values) in ROUNDED.items() if values["model_type"] == model_type}
    return [f"{name} ({n / 1e9:.2f}B)" if n >= 999.5e6 else f"{name} ({n / 1e6:.0f}M)" for name, n in counts.items()]


def table() -> str:
    """One row a family."""
    rows = ["| `model_type` | checkpoints whose published size follows | classifier | run with real weights |"]
    rows.append("| --- | --- | --- | --- |")
    for kind in sorted(FAMILIES):
        heads = [name for name in FAMILIES[kind][1] if name.endswith("ForSequenceClassification")]
        cells = (f"`{kind}`", ", ".join(known(kind)), "yes" if heads else "", ", ".join(REAL.get(kind, ())))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def checkpoints(model_type: str) -> list[str]:
    """The known checkpoints of a family."""
    found = {**KNOWN, **ROUNDED}
    return [name for name, (_, values) in found.items() if values["model_type"] == model_type]


def kinds(model_type: str) -> dict[str, list[str]]:
    """{kind of tokenizer: the family's checkpoints that have it}."""
    found: dict[str, list[str]] = {}
    for name in checkpoints(model_type):
        if name in PUBLISHED:
            found.setdefault(PUBLISHED[name].kind, []).append(name)
    return found


def tokenizing(names: Iterable[str]) -> list[str]:
    """What is tested of the tokenizers of all these checkpoints."""
    wanted = set(names)
    return [what for what, test in TOKENIZING.items() if wanted <= _parameters(test)]


def _parameters(test: Any) -> set[str]:
    """What a test is parametrised by."""
    return {name for mark in test.pytestmark if mark.name == "parametrize" for name in mark.args[1]}


def tokenizer_table() -> str:
    """One row for each family and kind of tokenizer."""
    rows = ["| `model_type` | tokenizer | of | tested |", "| --- | --- | --- | --- |"]
    for family in sorted(FAMILIES):
        for kind, names in kinds(family).items():
            cells = (f"`{family}`", kind, ", ".join(names), ", ".join(tokenizing(names)))
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


#: Name of a table in the page -> what makes it.
TABLES: dict[str, Callable[[], str]] = {"families": table, "tokenizers": tokenizer_table}


def written(page: str) -> str:
    """`page` with each table between its two marks."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name}: begin ({WRITE}) -->", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    print("\n\n".join(make() for make in TABLES.values()))
