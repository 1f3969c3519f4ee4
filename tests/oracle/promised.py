"""What the formats of this version have by name: `python -m tests.oracle.promised` adds a new version's promise.

What a version promised is never written over: what stands in promised.json must stay as long as the version does.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.kit import vectors
from tlora_ref.oracle.traces import manifest, names

FILE = Path(__file__).with_name("promised.json")
VECTORS = Path(__file__).with_name("vectors")


def now() -> dict[str, dict[str, str]]:
    """{format and version: {name: what it is}} of the code and of the vectors in the repository."""
    prefixes = {"": names.MODULE_SHAPES, "sample/<n>/": names.SAMPLE_SHAPES, "train/<t>/": names.STEP_SHAPES}
    trace = {f"{prefix}{k}/<m>": str(v) for prefix, table in prefixes.items() for k, v in table.items()}
    trace |= {name: f"{axes} axes" for name, axes in names.PLAIN.items()}
    trace |= {f"manifest: {field.name}": str(field.type) for field in fields(manifest.Manifest)}
    cases = {}
    for profile in PROFILES:
        read = vectors.Vectors(VECTORS / profile)
        for case in read.cases:
            given = ", ".join(f"{name}: {_axes(value)}" for name, value in read.inputs(case).items())
            cases[f"{profile}: {case['id']}"] = f"{given} -> {', '.join(case.get('outputs', ['refuses']))}"
    return {f"trace {manifest.VERSION}": trace, f"vectors {vectors.VERSION}": cases}


def _axes(value: Any) -> str:
    """An input's kind: an array by its number of axes, a list of those, a number."""
    if isinstance(value, list | tuple):
        return f"list of {_axes(value[0])}" if value else "list"
    return f"array of {value.ndim} axes" if hasattr(value, "ndim") and value.ndim else "number"


def main() -> None:
    """Adds what is not promised yet."""
    promised = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    for version, found in now().items():
        promised[version] = {**found, **promised.get(version, {})}
    FILE.write_text(json.dumps(promised, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
