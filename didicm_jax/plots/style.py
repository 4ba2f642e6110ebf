"""What all figures have in common: colours, fonts, grid, and how they are saved."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from didicm_jax import files

# Okabe and Ito (2008), told apart by people who are colour-blind; without their yellow, which is
# hard to see on white.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
# With the colours, for more lines than there are colours, and where there is only grey.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#777777"
DPI = 150


def new(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of `width` x `height` inches and its axes, `[rows, columns]` or a single one."""
    figure = empty(width, height)
    axes = figure.subplots(rows, columns)
    for each in [axes] if isinstance(axes, Axes) else axes.flat:
        prepare(each)
    return figure, axes


def empty(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches that makes room for whatever stands in it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.08, h_pad=0.06)  # type: ignore[call-arg]
    return figure


def grid(count: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most`, that hold `count` panels with few left empty."""
    rows = -(-count // most)
    return rows, -(-count // rows)


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
        # Their numbers have no divisor in common: a pair comes again after all pairs.
        yield COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        number += 1


def every(count: int, most: int) -> int:
    """Of `count` points of a line, mark one in so many: more markers would hide the line."""
    return max(1, count // most)


def legend(
    figure: Figure, handles: Sequence[Any], texts: Sequence[str], *, above: bool = False
) -> None:
    """A legend below all panels, or above, in as many columns as fit; many lines make room."""
    texts = [plain(text) for text in texts]
    columns = min(6, len(texts))
    side = "upper" if above else "lower"
    place: dict[str, Any] = {"loc": f"outside {side} center", "frameon": False, "fontsize": 9}
    found = figure.legend(handles, texts, ncols=columns, **place)
    while columns > 1 and found.get_window_extent().width > figure.bbox.width:
        found.remove()
        columns -= 1
        found = figure.legend(handles, texts, ncols=columns, **place)
    figure.set_figheight(figure.get_figheight() + 0.18 * (-(-len(texts) // columns) - 1))


def logarithmic(axes: Axes, axis: Axis) -> None:
    """A logarithmic scale whose ticks are plain numbers that stand apart."""
    (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    # Of less than a decade, powers of ten are too few; of many, more than those are too many.
    few = MaxNLocator(5) if decades < 1 else LogLocator(subs=(1, 2, 5) if decades < 3 else (1,))
    axis.set_major_locator(few)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def short(text: str, length: int) -> str:
    """A text of at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def distinct(texts: Sequence[str], length: int) -> list[str]:
    """Texts of at most `length` characters; those that begin alike lose their beginning."""
    cut = [short(text, length) for text in texts]
    for each in {text for text in cut if cut.count(text) > 1}:
        alike = [number for number, text in enumerate(cut) if text == each]
        whole = [texts[number] for number in alike]
        if len(set(whole)) > 1:
            letters = enumerate(zip(*whole, strict=False))
            common = next((n for n, each in letters if len(set(each)) > 1), min(map(len, whole)))
            start = whole[0].rfind(" ", 0, common) + 1 or common
            # More of the beginning where there is room for it.
            start = min(start, max(map(len, whole)) - length + 1)
            tails = distinct([text[start:] for text in whole], length - 1)
            for number, tail in zip(alike, tails, strict=True):
                cut[number] = "…" + tail
    return cut


def plain(text: str) -> str:
    """A text that is shown as it is: matplotlib takes what is between dollars as mathematics."""
    return text.replace("$", r"\$")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draws what is within without a word of each character that the font has not: names of files
    are in any script, and a box stands for those."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as the suffix of `path` says, whole or not at all."""
    kind = path.suffix.removeprefix(".") or "png"
    with mpl.rc_context({"svg.fonttype": "none"}), drawing():
        files.write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=DPI))
