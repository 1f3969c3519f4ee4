"""The chapters as pages and as notebooks, run while they are made:

    python examples/walkthrough/pages.py --out PAGES

PAGES/index.html leads to nine pages that need no network, and to one of a notebook that fine-tunes and plots
(`--notebook` makes this one alone); beside each stands the same chapter as an executed notebook.
jupytext reads the scripts (percent format), nbclient runs them, nbconvert turns cells into HTML. Equations become
MathML, which browsers typeset by themselves: nothing is fetched and no script runs, where MathJax would need either a
network or two megabytes a page. Needs the extra `pages`.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

FOLDER = Path(__file__).resolve().parent
CHAPTERS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
#: No chapter of the walkthrough: what a user would do first, with figures.
NOTEBOOK = FOLDER.parent / "07_finetune_and_plot.py"
#: What is not prose, and equations; in an HTML body.
VERBATIM = re.compile(r"(<pre.*?</pre>|<code.*?</code>)", flags=re.DOTALL)
EQUATION = re.compile(r"\$\$(?P<display>[^$]+)\$\$|\$(?P<inline>[^$]+)\$")
#: What makes an element one that scrolls sideways, by the keyboard too.
SCROLLS = 'class="scroll" tabindex="0" role="group" aria-label="{}, may scroll sideways"'


def executed(chapter: Path) -> Any:
    """A chapter as a notebook with the outputs of a run; an error where what it states is not what it computes."""
    import jupytext
    from nbclient import NotebookClient

    notebook = jupytext.read(chapter)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(notebook.cells):  # jupytext draws names at random: a page is the same every time
        cell["id"] = f"cell-{number}"
    folder = {"metadata": {"path": str(FOLDER)}}  # where chapters find `walk`
    quiet = ["--log-level=ERROR"]
    NotebookClient(notebook, timeout=600, resources=folder, record_timing=False, extra_arguments=quiet).execute()
    for cell in notebook.cells:  # what a figure shows, for who does not see it: `alt` of the script's cell
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                output["metadata"]["image/png"] = {"alt": cell["metadata"]["alt"]}
    return notebook


def typeset(body: str) -> str:
    """An HTML body with its $equations$ as MathML; what is in <pre> and <code> stays as it is. What may be too wide for
    a phone, an equation in a line of its own or a table, can be scrolled by the keyboard."""
    from latex2mathml.converter import convert

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found["display"] else "inline"
        latex = html.unescape(found["display"] or found["inline"])
        made = convert(re.sub(r"\s+", " ", latex).strip(), display=display)
        return made if display == "inline" else f"<span {SCROLLS.format('equation')}>{made}</span>"

    parts = VERBATIM.split(body)
    prose = (part if i % 2 else EQUATION.sub(mathml, part) for i, part in enumerate(parts))
    return re.sub(r"<table.*?</table>", rf"<div {SCROLLS.format('table')}>\g<0></div>", "".join(prose), flags=re.DOTALL)


def title(chapter: Path) -> str:
    """The heading of a chapter."""
    return re.sub(r"^# # ", "", chapter.read_text(encoding="utf-8").splitlines()[1])


def write_page(chapter: Path, out: Path) -> Path:
    """Run one chapter; write its page and its notebook, and return the page."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = executed(chapter)
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.exclude_anchor_links = True
    body = typeset(exporter.from_notebook_node(notebook)[0])
    colours = {style: HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "monokai")}
    page = out / f"{chapter.stem}.html"
    order = [*CHAPTERS, NOTEBOOK]
    number = order.index(chapter)
    neighbours = order[max(0, number - 1) : number], order[number + 1 : number + 2]
    text = template().render(
        title=title(chapter),
        body=Markup(body),
        light=Markup(colours["default"]),
        dark=Markup(colours["monokai"]),
        notebook=f"{chapter.stem}.ipynb",
        before=[(f"{other.stem}.html", title(other)) for other in neighbours[0]],
        after=[(f"{other.stem}.html", title(other)) for other in neighbours[1]],
    )
    nbformat.write(notebook, out / f"{chapter.stem}.ipynb")
    page.write_text(text, encoding="utf-8")
    return page


def template() -> Any:
    """The frame of every page."""
    return Environment(loader=FileSystemLoader(FOLDER), autoescape=True).get_template("page.html")


def link(chapter: Path) -> str:
    """A link to its page."""
    return f'<a href="{chapter.stem}.html">{html.escape(title(chapter))}</a>'


def write_index(out: Path) -> None:
    """The page that leads to the others."""
    entries = "".join(f"<li>{link(chapter)}</li>" for chapter in CHAPTERS)
    page = {"title": "TLoRA, a walkthrough", "light": "", "dark": "", "notebook": "", "before": [], "after": []}
    body = Markup(f'<h1>TLoRA, a walkthrough</h1><ol class="chapters">{entries}</ol><p>Apart: {link(NOTEBOOK)}</p>')
    (out / "index.html").write_text(template().render(**page, body=body), encoding="utf-8")


def main() -> None:
    """Build all chapters and the notebook, or those that are named."""
    parser = argparse.ArgumentParser(description="Run the chapters and write them as pages and notebooks.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--chapter", type=int, action="append", help="only this one; may be repeated")
    parser.add_argument("--notebook", action="store_true", help="only the notebook that fine-tunes and plots")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    numbers = arguments.chapter or ([] if arguments.notebook else range(1, len(CHAPTERS) + 1))
    if wrong := [number for number in numbers if not 1 <= number <= len(CHAPTERS)]:
        sys.exit(f"error: there is no chapter {wrong[0]}: they go from 1 to {len(CHAPTERS)}")
    wanted = [CHAPTERS[number - 1] for number in numbers]
    try:
        for chapter in [*wanted, NOTEBOOK] if arguments.notebook or not arguments.chapter else wanted:
            print(f"wrote {write_page(chapter, arguments.out)}", flush=True)
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: pip install -e '.[pages]'")
    write_index(arguments.out)
    print(f"wrote {arguments.out / 'index.html'}")


if __name__ == "__main__":
    main()
