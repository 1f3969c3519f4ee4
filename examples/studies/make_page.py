"""Make README.md, the page of claims, and the figures, from claims.yaml and the results beside it.

python examples/studies/make_page.py                # --text: without the figures, which need matplotlib
"""

from __future__ import annotations

import sys
from pathlib import Path

from tlora_ref.files import write_text
from tlora_ref.study import read_results
from tlora_ref.study.claims import judge, load_claims
from tlora_ref.study.claims_page import page
from tlora_ref.study.figures import draw

HERE = Path(__file__).resolve().parent


def made() -> str:
    """The page's text."""
    results = read_results(HERE / "results")
    files = {file.stem: str(file.relative_to(HERE)) for file in HERE.glob("second-settings/*.yaml")}
    findings = judge(load_claims(HERE / "claims.yaml"), results)
    return page(findings, results, "python examples/studies/make_page.py", files)


if __name__ == "__main__":
    if "--text" not in sys.argv[1:]:
        (HERE / "figures").mkdir(exist_ok=True)
        for result in read_results(HERE / "results"):
            if result.runs:
                draw(result, HERE / "figures" / f"{result.name}.svg")
    write_text(HERE / "README.md", made())
    print(f"wrote {HERE / 'README.md'}")
