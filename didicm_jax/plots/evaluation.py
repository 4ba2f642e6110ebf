"""Figures of an evaluation: samplers, calibration, selective accuracy, classes, corruptions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from didicm_jax.plots import style

# Of the points of a curve over all examples: more cannot be seen.
_POINTS = 500
# A curve of selective accuracy is noise before this share of the images: no axis is made for it.
_SETTLED = 0.05
# Of more classes than this, only the worst ones are drawn with their names.
_NAMED = 30
_WORST = 20


def steps(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Accuracy and negative log-likelihood against the steps of the sampler.

    Args:
      curves: for each sampler its records, of `metrics.summarize` with `steps` and `intervals`.
    """
    figure, (left, right) = style.new(9, 3.8, 1, 2)
    every = sorted({record["steps"] for records in curves.values() for record in records})
    apart = len(every) == 1  # side by side, where all would stand at one place
    curves = {
        name: [{**record, "x": number if apart else record["steps"]} for record in records]
        for number, (name, records) in enumerate(curves.items())
    }
    for (name, records), (color, marker) in zip(curves.items(), style.colors(), strict=False):
        records = sorted(records, key=lambda record: record["x"])
        x = [record["x"] for record in records]
        for axes, key, scale in ((left, "top1", 100), (right, "nll", 1)):
            y = np.array([scale * record[key] for record in records])
            ends = scale * np.array([record["intervals"][key] for record in records])
            # A percentile interval need not hold the estimate.
            bars = np.maximum([y - ends[:, 0], ends[:, 1] - y], 0)
            axes.errorbar(x, y, bars, color=color, marker=marker, ms=5, capsize=3, label=name)
    left.set_ylabel("top-1 accuracy (%)")
    right.set_ylabel("negative log-likelihood (nats)")
    for axes in (left, right):
        axes.margins(x=0.1)
        if apart:
            axes.set_xticks([])
            continue
        axes.set_xlabel("steps of the sampler")
        axes.set_xscale("log", base=2)
        axes.set_xticks(_spread(every))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
    if right.dataLim.minposy < np.inf:  # else every sampler is right and sure of it
        style.logarithmic(right, right.yaxis)
    _leave_out_failures(left, curves)
    style.legend(figure, *left.get_legend_handles_labels())
    title = "Samplers" if apart else "What more steps bring"
    figure.suptitle(f"{title} (bars: 95 % of bootstrap resamples)", fontsize=11)
    return figure


def _spread(numbers: Sequence[int]) -> list[int]:
    """Of ascending numbers, those whose labels do not touch on a logarithmic axis."""
    chosen = list(numbers[:1])
    ratio = (numbers[-1] / numbers[0]) ** (1 / 10)
    for number in numbers[1:]:
        if number >= ratio * chosen[-1]:
            chosen.append(number)
    return chosen


def _leave_out_failures(axes: Axes, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Begins the axis of accuracy where the samplers are that do not fail.

    Those that do would press all others together at the top: a triangle and a number at the lower
    edge say where they are.
    """
    best = max(record["top1"] for records in curves.values() for record in records)
    kept = [
        [*record["intervals"]["top1"], record["top1"]]
        for records in curves.values()
        for record in records
        if not _fails(record["top1"], best)
    ]
    if len(kept) == sum(map(len, curves.values())):
        return
    low, high = 100 * np.min(kept), 100 * np.max(kept)
    margin = max(0.05 * (high - low), 0.1)
    low = low - 3 * margin
    axes.set_ylim(low, high + margin)
    stacked: dict[int, int] = {}
    for records, (color, _) in zip(curves.values(), style.colors(), strict=False):
        for record in records:
            if 100 * record["top1"] < low:
                x = record["x"]
                row = stacked[x] = stacked.get(x, 0) + 1
                axes.annotate(
                    f"▼ {100 * record['top1']:.1f}",
                    (x, 0),
                    (4, 11 * row - 8),
                    xycoords=axes.get_xaxis_transform(),
                    textcoords="offset points",
                    fontsize=9,
                    color=color,
                )


def _fails(top1: float, best: float) -> bool:
    """Whether a sampler is right less than half as often as the best one."""
    return top1 < best / 2


def reliability(found: Any, ece: float, name: str) -> Figure:
    """Accuracy against confidence, and how many examples have it.

    Args:
      found: of `metrics.reliability`.
      ece: the expected calibration error, equal width.
      name: of the sampler.
    """
    figure, (top, bottom) = style.new(5, 5.6, 2, 1)
    grid = top.get_gridspec()
    grid.set_height_ratios([3, 1])
    width = np.diff(found.edges)
    left = found.edges[:-1]
    full = found.examples > 0
    top.bar(
        left[full],
        found.accuracy[full],
        width[full],
        align="edge",
        color=style.SKY,
        edgecolor="white",
        label="accuracy",
    )
    gap = found.confidence - found.accuracy
    top.bar(
        left[full],
        gap[full],
        width[full],
        bottom=found.accuracy[full],
        align="edge",
        facecolor="none",
        edgecolor=style.RED,
        hatch="////",
        linewidth=0.8,
        label="gap to the confidence",
    )
    top.plot([0, 1], [0, 1], color=style.BLACK, linestyle="--", linewidth=1.2, label="calibrated")
    top.set_ylim(0, 1)
    top.set_ylabel("accuracy")
    named = style.plain(style.short(name, 40))
    top.set_title(f"Reliability: {named}\nexpected calibration error {ece:.4f}", fontsize=11)
    style.legend(figure, *top.get_legend_handles_labels())
    bottom.bar(left, found.examples, width, align="edge", color=style.GREY, edgecolor="white")
    if np.max(found.examples) > 30:
        bottom.set_yscale("symlog", linthresh=1)
    else:
        bottom.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    bottom.set_ylim(0)
    bottom.set_ylabel("images")
    bottom.set_xlabel(f"confidence (probability of the predicted class), {len(width)} bins")
    for axes in (top, bottom):
        axes.set_xlim(0, 1)
    return figure


def selective(curves: Mapping[str, Any]) -> Figure:
    """Accuracy against coverage.

    Args:
      curves: for each sampler, of `metrics.selective`.
    """
    figure, axes = style.new(7.5, 4)
    best = max(curve.accuracy[-1] for curve in curves.values())
    low, start = 1.0, 1.0
    for number, ((name, curve), (color, marker)) in enumerate(
        zip(curves.items(), style.colors(), strict=False)
    ):
        if _fails(curve.accuracy[-1], best):
            # A sampler that fails would be a wall at the left: its figure says enough.
            axes.plot([], [], color=color, label=f"{name}: {curve.accuracy[-1]:.1%} of all")
            continue
        total = len(curve.coverage)
        shown = np.unique(np.linspace(0, total - 1, min(total, _POINTS)).astype(int))
        coverage, accuracy = curve.coverage[shown], curve.accuracy[shown]
        axes.plot(
            100 * coverage,
            100 * accuracy,
            color=color,
            label=name,
            marker=marker,
            ms=5,
            # Where lines lie on each other, their markers do not.
            markevery=(0.02 * (number % 5), 0.1),
        )
        low = min(low, accuracy[coverage >= _SETTLED].min())
        # Where all answers are right there is nothing to see.
        start = min(start, coverage[np.argmax(accuracy < 1)] if accuracy.min() < 1 else 1.0)
    axes.set_xlabel("coverage: share of images answered, the most confident first (%)")
    axes.set_ylabel("accuracy on them (%)")
    axes.set_xlim(max(0, 100 * start - 10) if low < 1 else 0, 100)
    margin = max(5 * (1 - low), 0.1) if low < 1 else 1
    # Above 100 % there is too little room for a tick, as there is no such accuracy.
    axes.set_ylim(max(0, 100 * low - margin), 100 + 0.1 * margin)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title("Selective accuracy", fontsize=11)
    style.legend(figure, *axes.get_legend_handles_labels())
    return figure


def classes(found: Any, names: Sequence[str]) -> Figure:
    """The accuracy and the confidence of each class, from the worst to the best.

    Of many classes all are drawn without names, and the worst ones with them.

    Args:
      found: of `classes.per_class`.
      names: of the classes.
    """
    order = np.argsort(found.accuracy, kind="stable")
    order = order[found.examples[order] > 0]
    accuracy, confidence = 100 * found.accuracy[order], 100 * found.confidence[order]
    shown = len(order) if len(order) <= _NAMED else _WORST
    height = 1.5 + 0.24 * shown
    if shown == len(order):
        figure, axes = style.new(7, height)
        named = axes
    else:
        figure, (axes, named) = style.new(10, height, 1, 2)
        place = np.arange(len(order))
        axes.fill_between(place, accuracy, step="mid", color=style.SKY)
        size = 4 if len(order) <= 200 else 2
        axes.plot(place, confidence, "D", color=style.RED, ms=size)
        axes.set_xlabel(f"the {len(order):,} classes, from the worst to the best")
        axes.set_ylabel("%")
        axes.set_ylim(0, 102)
        axes.set_xlim(-0.5, len(order) - 0.5)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        named.set_title(f"the {shown} worst", fontsize=10)
    place = np.arange(shown)
    named.barh(place, accuracy[:shown], color=style.SKY, label="accuracy")
    named.plot(
        confidence[:shown],
        place,
        "D",
        color=style.RED,
        ms=5,
        label="mean confidence on its images",
    )
    labels = style.distinct([names[k] for k in order[:shown]], 28)
    named.set_yticks(place, [style.plain(label) for label in labels])
    named.set_ylim(shown - 0.5, -0.5)
    named.set_xlim(0, 102)
    named.set_xlabel("%")
    named.grid(axis="y", visible=False)
    figure.suptitle(
        f"Classes: accuracy {accuracy[0]:.1f} % of the worst, {accuracy[-1]:.1f} % of the best",
        fontsize=11,
    )
    style.legend(figure, *named.get_legend_handles_labels())
    return figure


def corruptions(
    names: Sequence[str], severities: Sequence[int], accuracies: Mapping[str, np.ndarray]
) -> Figure:
    """Accuracy over severity, one panel for each corruption and one for their mean.

    Args:
      names: of the corruptions.
      severities: of each.
      accuracies: of each run f64[names, severities + 1], the first of clean images.
    """
    panels = [*names, "mean"] if len(names) > 1 else list(names)
    rows, columns = style.grid(len(panels), 4)
    figure, grid = style.new(2.5 * max(2, columns) + 0.6, 2 * rows + 0.9, rows, columns)
    flat = list(np.atleast_1d(grid).flat)
    styles = list(zip(accuracies.items(), style.colors(), strict=False))
    x = [0, *severities]
    for number, (axes, panel) in enumerate(zip(flat, panels, strict=False)):
        for (run, accuracy), (color, marker) in styles:
            y = accuracy.mean(axis=0) if panel == "mean" else accuracy[names.index(panel)]
            axes.plot(x, 100 * y, color=color, marker=marker, ms=4, label=run)
        axes.set_title(panel.replace("_", " "), fontsize=10)
        axes.set_ylim(0, 103)
        axes.set_xticks(x)
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        lowest = number + columns >= len(panels)
        axes.tick_params(labelbottom=lowest, labelleft=number % columns == 0)
        axes.set_xlabel("severity (0: clean)" if lowest else "")
        axes.set_ylabel("top-1 accuracy" if number % columns == 0 else "")
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    style.legend(figure, *flat[0].get_legend_handles_labels())
    return figure
