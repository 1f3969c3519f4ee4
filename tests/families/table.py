"""The table of families in `tlora_ref/transformer/README.md`, from what is registered and tested:

python -m tests.families.table --write
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.families.known import KNOWN, ROUNDED
from tests.families.make_tiny import MODELS
from tests.families.recorded import NAMES
from tlora_ref.transformer import FAMILIES

README = Path(__file__).parents[2] / "tlora_ref" / "transformer" / "README.md"
BEGIN, END = "<!-- families: begin (python -m tests.families.table --write) -->", "<!-- families: end -->"

#: What has been run with the weights that people download, not with random ones.
REAL = {"llama": ("SmolLM2-135M-Instruct", "models/tiny-math-llama"), "bert": ("all-MiniLM-L6-v2",)}


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


def written(page: str) -> str:
    """`page` with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(table())
