"""A room's template on the base of this room: one file of HTML that fetches nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined

from tlora_ref.errors import OutputError, reason
from tlora_ref.files import write_text

BASE = Path(__file__).with_name("template")


@cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=ChoiceLoader([FileSystemLoader(folder), FileSystemLoader(BASE)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: Path, **values: Any) -> str:
    """The whole page as HTML. Every text among the values (names of modules, titles) is escaped.

    Parameters
    ----------
    template : a file that extends `base.html`; what it includes is looked for beside it, then in `pages/template`
    values : what it shows; a name that it asks for and that is not among them raises
    """
    return _environment(template.parent).get_template(template.name).render(**values)


def check_page(out: str | Path, *, overwrite: bool = False) -> Path:
    """`out`, if a page can be written there: asked before long work, not after. OutputError otherwise."""
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{path}: the page is one HTML file: give a name that ends in .html")
    if path.is_dir() or not path.absolute().parent.is_dir():
        said = "is a folder" if path.is_dir() else "its folder does not exist"
        raise OutputError(f"{path}: {said}. Give the name of a file in a folder that is there")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path}: already exists. Choose another name, or replace it: --overwrite (from Python, overwrite=True)"
        )
    return path


def write_page(path: Path, text: str) -> None:
    """The page, whole or not at all; OutputError where it cannot be written."""
    try:
        write_text(path, text)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
