"""What all figures have in common: colours, fonts, grid, and how they are saved."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from didicm_jax import files

# Okabe and Ito (2008): told apart by people who are colour-blind, and in grey by their brightness.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, YELLOW = "#CC79A7", "#56B4E9", "#000000", "#F0E442"
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW)
# With the colours, for more lines than there are colours.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#777777"
DPI = 150


def new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its axes, `[rows, columns]` or a single one."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns)
    for each in [axes] if isinstance(axes, Axes) else axes.flat:
        prepare(each)
    return figure, axes


def prepare(axes: Axes) -> None:
    """A light grid behind the data, and no box around it."""
    axes.set_axisbelow(True)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def colors() -> Iterator[tuple[str, str]]:
    """Endless pairs of a colour and a marker."""
    number = 0
    while True:
        yield COLORS[number % len(COLORS)], MARKERS[(number // len(COLORS) + number) % len(MARKERS)]
        number += 1


def short(text: str, length: int) -> str:
    """A text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def plain(text: str) -> str:
    """A text that is shown as it is: matplotlib takes what is between dollars as mathematics."""
    return text.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as the suffix of `path` says, whole or not at all."""
    kind = path.suffix.removeprefix(".") or "png"
    with mpl.rc_context({"svg.fonttype": "none"}):
        files.write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=DPI))
