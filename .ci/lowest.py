"""Print a pip constraint for the lowest version of every dependency that pyproject.toml allows, one a line.

Usage: python3 .ci/lowest.py [EXTRA ...]
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

LOWER_BOUND = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9][0-9a-z.]*)")


def lowest(pyproject: str, *extras: str) -> list[str]:
    """`name==version` of each requirement and of those of `extras`; ValueError for one without a lower bound."""
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    pinned = []
    for requirement in wanted:
        found = LOWER_BOUND.match(requirement)
        if found is None:
            raise ValueError(f'"{requirement}" has no lower bound: write one that the tests were run with')
        pinned.append(f"{found[1]}=={found[2]}")
    return pinned


if __name__ == "__main__":
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(lowest(text, *sys.argv[1:])))
