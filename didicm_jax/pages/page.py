"""A page from a template, and what all pages are made of: tables and figures."""

import functools
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from didicm_jax import files
from didicm_jax.pages import pictures
from didicm_jax.plots import style

if TYPE_CHECKING:
    import jinja2

_CSS_DPI = 96


class Cell(NamedTuple):
    """A number in a table, as it is written and as it is sorted."""

    text: str
    value: float | None  # None: there is no number, and it is sorted last


class Table(NamedTuple):
    """Rows under a header; the first cell of a row names it."""

    label: str  # what it is of, for who cannot see it
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    # The column by which the rows are in ascending order; given, a click on a header sorts by it.
    sorted_by: int | None = None


class Figure(NamedTuple):
    """A drawn figure."""

    uri: str  # its PNG as a `data:` URI
    alt: str  # what it shows, in words
    width: int  # at which its text has the size that it was drawn in, in pixels of CSS
    height: int


def figure(path: Path, alt: str) -> Figure:
    """The PNG at `path`, to be part of a page."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as drawn:
        width, height = (round(side * _CSS_DPI / style.DPI) for side in drawn.size)
    return Figure(pictures.data_uri(content, "png"), alt, width, height)


def write(path: Path, template: str, **values: Any) -> None:
    """Writes a page whole or not at all.

    Args:
      path: of the page.
      template: a file of `templates/`.
      values: what it speaks of; each that it names must be there.
    """
    text = _environment().get_template(template).render(values)
    # A name of a file may hold bytes that are no UTF-8.
    files.write_bytes(path, text.encode(errors="backslashreplace"))


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("didicm_jax.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["quantity"] = _is_quantity
    return environment


def _is_quantity(cell: str | Cell) -> bool:
    """Whether it begins as numbers and intervals do, and so stands at the right of its column."""
    return isinstance(cell, Cell) or re.match(r"[\[+-]*\d", cell) is not None
