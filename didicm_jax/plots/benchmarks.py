"""A bar chart of benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from didicm_jax.plots import style


def ratios(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Ratios as bars on a logarithmic scale, with their range and their target.

    Args:
      records: each with `name`, `ratio`, `ratio_low`, `ratio_high` and `target`, a number or None.
    """
    figure, axes = style.new(9, 1.2 + 0.32 * len(records))
    places = range(len(records))
    values = [record["ratio"] for record in records]
    ends = [
        [record["ratio"] - record["ratio_low"] for record in records],
        [record["ratio_high"] - record["ratio"] for record in records],
    ]
    # From 1: to the right is more than what it is measured against, to the left less.
    widths = [value - 1 for value in values]
    axes.barh(places, widths, left=1, xerr=ends, color=style.SKY, ecolor=style.GREY, capsize=2)
    aims = [(place, r["target"]) for place, r in zip(places, records, strict=True) if r["target"]]
    if aims:
        axes.plot(
            [target for _, target in aims],
            [place for place, _ in aims],
            ls="none",
            marker="|",
            ms=14,
            mew=2.5,
            color=style.RED,
            label="target",
        )
        axes.legend(fontsize=9, frameon=False, loc="lower right")
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3g}", (value, place), (4, 5), textcoords="offset points", fontsize=8
        )
    axes.axvline(1, color=style.BLACK, lw=1)
    axes.set_yticks(places, [style.plain(record["name"]) for record in records])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False))
    axes.margins(x=0.08)
    axes.invert_yaxis()
    axes.set_xlabel("ratio (bars end at the median of the rounds; whiskers: all rounds)")
    return figure
