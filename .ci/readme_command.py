"""Print one of README's marked commands: the ```bash block after `<!-- command: NAME -->`.

Usage: python3 .ci/readme_command.py NAME [README.md]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BLOCK = r"^<!-- command: {name} -->\n+```bash\n(?P<command>.*?)\n```$"


def readme_command(text: str, name: str) -> str:
    """The command marked `name` in README's `text`; ValueError unless exactly one block carries the mark."""
    found = re.findall(BLOCK.format(name=re.escape(name)), text, flags=re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise ValueError(
            f"README has {len(found)} bash blocks marked '<!-- command: {name} -->', expected exactly one: "
            "put the mark on the line before a ```bash fence"
        )
    return found[0]


if __name__ == "__main__":
    readme = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).resolve().parents[1] / "README.md"
    print(readme_command(readme.read_text(encoding="utf-8"), sys.argv[1]))
