"""Figures of a study: gains as heat maps and lines, metrics over an axis and against compute."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from didicm_jax.plots import style

# Brown to green by way of white: told apart by people who are colour-blind.
_DIVERGING = "BrBG"
# Inches: of a row of heat maps, and of gains, for what their labels show.
_WIDEST, _NARROWEST = 11, 7


class Map(NamedTuple):
    """One heat map."""

    title: str
    values: np.ndarray  # f64[R, C], above 0 is better; NaN is not there


def gains(
    panels: Sequence[Map],
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    what: str,
) -> Figure:
    """Heat maps side by side on one scale, white where nothing is gained.

    Args:
      panels: one for each method.
      rows: what varies over R, and its values.
      columns: the same over C.
      what: the gain and its unit.
    """
    wide = max(1.3, 0.4 + 0.75 * len(columns[1]))
    down, across = style.grid(len(panels), max(1, int((_WIDEST - 1.6) / wide)))
    turned = max(map(len, columns[1])) > 8
    height = max(2.6, 0.4 + down * (0.6 + 0.9 * turned + 0.5 * len(rows[1])))
    figure, all_axes = style.new(1.6 + across * wide, height, down, across)
    values = np.abs(np.concatenate([panel.values.ravel() for panel in panels]))
    values = values[np.isfinite(values)]
    # One gain that is far beyond the others would make them all white.
    limit, far = 0.1, False
    if len(values):
        largest, most = float(np.max(values)), 3 * float(np.quantile(values, 0.75))
        far = 0 < most < largest
        limit = max(limit, most if far else largest)
    image = None
    flat = list(np.ravel(all_axes))
    for number, (axes, panel) in enumerate(zip(flat, panels, strict=False)):
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        image = axes.imshow(panel.values, cmap=_DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
        for (row, column), value in np.ndenumerate(panel.values):
            dark = abs(value) > 0.7 * limit
            text = "" if np.isnan(value) else f"{value:+.1f}"
            color = "white" if dark else style.BLACK
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
        axes.set_title(style.plain(style.short(panel.title, int(11 * wide))), fontsize=10)
        lowest, first = number + across >= len(panels), number % across == 0
        axes.set_xticks(range(len(columns[1])), columns[1] if lowest else [""] * len(columns[1]))
        if turned:
            axes.tick_params(axis="x", labelrotation=90)
        axes.set_yticks(range(len(rows[1])), rows[1] if first else [""] * len(rows[1]))
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(columns[0], fontsize=10)
    figure.supylabel(rows[0], fontsize=10)
    assert image is not None
    figure.colorbar(image, ax=flat, label=what, extend="both" if far else "neither")
    return figure


class Gain(NamedTuple):
    """What a method gains at a place."""

    number: int  # of the place
    value: float  # above 0 is better
    error: float  # half of an interval


class Panel(NamedTuple):
    """Gains of all methods over one baseline in one metric."""

    title: str
    lines: Mapping[str, Sequence[Gain]]  # by method
    what: str  # the gain and its unit


def difficulty(panels: Sequence[Panel], columns: int, places: Sequence[str], order: str) -> Figure:
    """Gains over the places, baselines side by side on one scale, metrics below each other.

    Args:
      panels: row by row.
      columns: baselines.
      places: a label for each, from the easiest to the hardest.
      order: what the labels show.
    """
    rows = len(panels) // columns
    looks = _looks([panel.lines for panel in panels])
    width = max(_NARROWEST, 1.0 + columns * (1.6 + 0.5 * len(places)))
    figure, all_axes = style.new(width, 1.1 + 2.4 * rows, rows, columns)
    grid = np.reshape(all_axes, (rows, columns))
    for axes, panel in zip(grid.ravel(), panels, strict=True):
        axes.axhline(0, color=style.BLACK, lw=0.8)
        for number, (name, (color, marker)) in enumerate(looks.items()):
            line = sorted(panel.lines.get(name, ()))
            # Beside each other, or errors would hide one another.
            shift = 0.4 * ((number + 0.5) / len(looks) - 0.5)
            axes.errorbar(
                [gain.number + shift for gain in line],
                [gain.value for gain in line],
                [gain.error for gain in line],
                color=color,
                marker=marker,
                ms=4,
                lw=1,
                capsize=2,
                label=name,
            )
        axes.set_title(panel.title, fontsize=10)
        axes.set_xticks(range(len(places)), places, fontsize=8)
        axes.set_xlim(-0.5, len(places) - 0.5)  # also where no method reaches all of them
    for row in grid:
        low, high = zip(*(axes.get_ylim() for axes in row), strict=True)
        for axes in row:
            axes.set_ylim(min(low), max(high))
    for axes, panel in zip(grid[:, 0], panels[::columns], strict=True):
        axes.set_ylabel(panel.what, fontsize=9)
    figure.supxlabel(order, fontsize=9)
    style.legend(figure, *grid[0, 0].get_legend_handles_labels(), above=True)
    return figure


class At(NamedTuple):
    """A method's metric at one value of an axis."""

    x: float
    y: float
    error: float  # standard error, 0 where there is none


class Curves(NamedTuple):
    """One metric of all methods over an axis."""

    title: str
    metric: str
    lines: Mapping[str, Sequence[At]]  # by method


def curves(panels: Sequence[Curves], columns: int, axis: str) -> Figure:
    """Metrics over an axis, beside each other, each on a scale of its own.

    A scale is logarithmic where its values are above 0 and far apart.

    Args:
      panels: row by row.
      columns: metrics.
      axis: its name and unit.
    """
    rows = len(panels) // columns
    looks = _looks([panel.lines for panel in panels])
    figure, all_axes = style.new(0.6 + 2.6 * columns, 1.1 + 2.4 * rows, rows, columns)
    lines = [line for panel in panels for line in panel.lines.values()]
    values = sorted({point.x for line in lines for point in line})
    handles: dict[str, Any] = {}
    for axes, panel in zip(np.ravel(all_axes), panels, strict=True):
        for name, line in panel.lines.items():
            color, marker = looks[name]
            x, y, error = np.transpose(sorted(line))
            handles[name] = axes.errorbar(
                x, y, error, color=color, marker=marker, ms=4, lw=1, capsize=2, label=name
            )
        axes.set_title(textwrap.fill(panel.title, 28), fontsize=10)
        axes.set_ylabel(panel.metric, fontsize=9)
        seen = [point.y for line in panel.lines.values() for point in line]
        if seen and 0 < 2 * min(seen) <= max(seen):
            style.logarithmic(axes, axes.yaxis)
        if 0 < 10 * values[0] <= values[-1]:
            style.logarithmic(axes, axes.xaxis)
        axes.set_xticks(values if len(values) <= 7 else values[:: len(values) // 4])
        axes.tick_params(axis="x", labelsize=8)  # lengths that double stand close
        axes.xaxis.set_major_formatter(_number)
    figure.supxlabel(axis, fontsize=9)
    style.legend(figure, [handles[name] for name in looks], list(looks), above=True)
    return figure


def _number(value: float, _: int | None = None) -> str:
    """Thousands and millions are short, `40k`; a share is no number of thousandths, `20m`."""
    return EngFormatter(sep="")(value) if value >= 1000 else f"{value:g}"


class Point(NamedTuple):
    """A posterior's price and worth."""

    passes: float
    top1: float  # in per cent
    error: float  # standard error, 0 where there is none
    joined: bool  # with the other joined points of its method, by a line


def compute(places: Mapping[str, Mapping[str, Sequence[Point]]]) -> Figure:
    """Accuracy against compute, one plot for each place of the study.

    Args:
      places: for each place, the points of each method.
    """
    rows, columns = style.grid(len(places), 3)
    figure, all_axes = style.new(0.8 + 3.4 * columns, 0.9 + 2.5 * rows, rows, columns)
    handles: dict[str, Any] = {}
    every = np.ravel(all_axes)
    looks = _looks(list(places.values()))
    for axes, (place, methods) in zip(every, places.items(), strict=False):
        for name, points in methods.items():
            color, marker = looks[name]
            line = sorted(point for point in points if point.joined)
            axes.plot([p.passes for p in line], [p.top1 for p in line], color=color, lw=1)
            handles[name] = axes.errorbar(
                [p.passes for p in points],
                [p.top1 for p in points],
                [p.error for p in points],
                color=color,
                marker=marker,
                ls="none",
                ms=5,
                capsize=2,
                label=name,
            )
        axes.set_title(textwrap.fill(place, 38), fontsize=10)
        style.logarithmic(axes, axes.xaxis)
    for axes in every[len(places) :]:
        axes.set_visible(False)
    for axes in np.atleast_2d(np.reshape(all_axes, (rows, columns)))[:, 0]:
        axes.set_ylabel("top-1 accuracy (%)")
    for axes in every[max(0, len(places) - columns) : len(places)]:
        axes.set_xlabel("passes of the plain network (operations)")
    style.legend(figure, list(handles.values()), list(handles))
    return figure


def _looks(panels: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each method, the same in all panels."""
    names = dict.fromkeys(name for methods in panels for name in methods)
    return dict(zip(names, style.colors(), strict=False))
