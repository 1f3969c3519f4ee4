"""Writes `tests/oracle/vectors`: `python -m tests.oracle.make_vectors`, after a change of the kit's checks."""

from __future__ import annotations

from pathlib import Path

from tlora_ref.method.switches import PROFILES
from tlora_ref.oracle.kit.vectors import write_vectors

VECTORS = Path(__file__).parent / "vectors"

if __name__ == "__main__":
    for profile in PROFILES:
        write_vectors(VECTORS / profile, profile=profile, overwrite=True)
        print(f"{VECTORS / profile}: {sum(p.stat().st_size for p in (VECTORS / profile).iterdir()):,} bytes")
