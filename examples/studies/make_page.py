"""Make README.md, the page of claims, from claims.yaml and the results beside it.

python examples/studies/make_page.py
"""

from __future__ import annotations

from pathlib import Path

from tlora_ref.files import write_text
from tlora_ref.study import read_results
from tlora_ref.study.claims import judge, load_claims, page

HERE = Path(__file__).resolve().parent


def made() -> str:
    """The page's text."""
    results = read_results(HERE / "results")
    return page(judge(load_claims(HERE / "claims.yaml"), results), results, "python examples/studies/make_page.py")


if __name__ == "__main__":
    write_text(HERE / "README.md", made())
    print(f"wrote {HERE / 'README.md'}")
