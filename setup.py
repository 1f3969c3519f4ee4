"""What pyproject.toml cannot say: the page that a package index shows.

It is README.md without pictures and links that lead to files beside it: an index has none of those.
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

#: A link or, with "!", a picture: [words](target), the target neither an address nor a place on the page.
RELATIVE = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?://|#)[^()]*\)")


def index_page(readme: str) -> str:
    """The text with such links as their words alone."""
    return RELATIVE.sub(lambda found: "" if found[1] else found[2], readme)


if __name__ == "__main__":
    setup(
        long_description=index_page(Path("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
