"""The pages that commands write: one base, one style, one way to draw."""

from tlora_ref.pages.grid import Grid, grid
from tlora_ref.pages.render import check_page, render, write_page

__all__ = ["Grid", "check_page", "grid", "render", "write_page"]
