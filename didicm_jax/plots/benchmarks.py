"""A bar chart of benchmarks."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from didicm_jax.plots import style


def ratios(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Ratios as bars on a logarithmic scale, with their range and their target.

    Args:
      records: each with `name`, `ratio`, `ratio_low`, `ratio_high`, `target`, a number or None, and
        `gain`, whether more is better.
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
    colors = [style.SKY if record["gain"] else style.RED for record in records]
    axes.barh(places, widths, left=1, xerr=ends, color=colors, ecolor=style.GREY, capsize=2)
    labels: list[Any] = [
        Patch(color=color, label=label)
        for color, label in ((style.SKY, "as many times as fast"), (style.RED, "times the cost"))
        if color in colors
    ]
    aims = [(place, r["target"]) for place, r in zip(places, records, strict=True) if r["target"]]
    if aims:
        labels += axes.plot(
            [target for _, target in aims],
            [place for place, _ in aims],
            ls="none",
            marker="|",
            ms=14,
            mew=2.5,
            color=style.BLACK,
            label="target",
        )
    for place, record in zip(places, records, strict=True):
        right = max(1, record["ratio_high"], record["target"] or 0)
        axes.annotate(
            f"{record['ratio']:.3g}" if record["ratio"] < 1000 else f"{record['ratio']:,.0f}",
            (right, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color=style.BLACK, lw=1)
    axes.set_yticks(places, [style.plain(record["name"]) for record in records])
    axes.margins(x=0.08, y=0.01)
    axes.set_xscale("log")
    style.logarithmic(axes, axes.xaxis)
    axes.invert_yaxis()
    axes.set_xlabel("ratio (bars end at the median of the rounds; whiskers: all rounds)")
    style.legend(figure, labels, [label.get_label() for label in labels])
    return figure
