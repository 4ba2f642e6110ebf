"""Figures of an evaluation: samplers, calibration, selective accuracy, classes, corruptions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from didicm_jax.plots import style

# Of the points of a curve over all examples: more cannot be seen.
_POINTS = 500
# More bars than this are drawn without names.
_NAMED = 30


def steps(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Accuracy and negative log-likelihood against the steps of the sampler.

    Args:
      curves: for each sampler its records, of `metrics.summarize` with `steps` and `intervals`.
    """
    figure, (left, right) = style.new(9, 3.8, 1, 2)
    every = sorted({record["steps"] for records in curves.values() for record in records})
    for (name, records), (color, marker) in zip(curves.items(), style.colors(), strict=False):
        records = sorted(records, key=lambda record: record["steps"])
        x = [record["steps"] for record in records]
        for axes, key, scale in ((left, "top1", 100), (right, "nll", 1)):
            y = np.array([scale * record[key] for record in records])
            ends = scale * np.array([record["intervals"][key] for record in records])
            # A percentile interval need not hold the estimate.
            bars = np.maximum([y - ends[:, 0], ends[:, 1] - y], 0)
            axes.errorbar(x, y, bars, color=color, marker=marker, ms=5, capsize=3, label=name)
    left.set_ylabel("top-1 accuracy (%)")
    right.set_ylabel("negative log-likelihood (nats)")
    for axes in (left, right):
        axes.set_xlabel("steps of the sampler (network calls)")
        if len(every) > 1:
            axes.set_xscale("log", base=2)
        axes.set_xticks(every, [str(number) for number in every])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.1)
    if right.dataLim.minposy < np.inf:  # else every sampler is right and sure of it
        right.set_yscale("log")
        low, high = right.get_ylim()
        # Of less than a decade, powers of ten are too few.
        few = high < 10 * low
        right.yaxis.set_major_locator(MaxNLocator(5) if few else LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        right.yaxis.set_minor_locator(NullLocator())
    left.legend(fontsize=9, frameon=False)
    figure.suptitle("What more steps bring (bars: 95 % of bootstrap resamples)", fontsize=11)
    return figure


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
    top.set_title(f"Reliability: {name}, ECE {ece:.4f}", fontsize=11)
    figure.legend(fontsize=9, frameon=False, loc="outside lower center", ncols=3)
    bottom.bar(left, found.examples, width, align="edge", color=style.GREY, edgecolor="white")
    bottom.set_yscale("symlog", linthresh=1)
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
    figure, axes = style.new(8, 4)
    best = max(curve.accuracy[-1] for curve in curves.values())
    low, start = 1.0, 1.0
    for (name, curve), (color, _) in zip(curves.items(), style.colors(), strict=False):
        if curve.accuracy[-1] < best / 2:
            # A sampler that fails would be a wall at the left: its figure says enough.
            axes.plot([], [], color=color, label=f"{name}: {curve.accuracy[-1]:.1%} of all")
            continue
        total = len(curve.coverage)
        shown = np.unique(np.linspace(0, total - 1, min(total, _POINTS)).astype(int))
        coverage, accuracy = curve.coverage[shown], curve.accuracy[shown]
        axes.plot(100 * coverage, 100 * accuracy, color=color, label=name)
        low = min(low, accuracy.min())
        # Where all answers are right there is nothing to see.
        start = min(start, coverage[np.argmax(accuracy < 1)] if accuracy.min() < 1 else 1.0)
    axes.set_xlabel("coverage: share of images answered, the most confident first (%)")
    axes.set_ylabel("accuracy on them (%)")
    axes.set_xlim(max(0, 100 * start - 10) if low < 1 else 0, 100)
    margin = max(5 * (1 - low), 0.1) if low < 1 else 1
    axes.set_ylim(max(0, 100 * low - margin), 100 + margin)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title("Selective accuracy", fontsize=11)
    axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def classes(found: Any, names: Sequence[str]) -> Figure:
    """The accuracy and the confidence of each class, from the worst to the best.

    Args:
      found: of `classes.per_class`.
      names: of the classes.
    """
    order = np.argsort(found.accuracy, kind="stable")
    order = order[found.examples[order] > 0]
    x = np.arange(len(order))
    named = len(order) <= _NAMED
    figure, axes = style.new(max(6, 0.42 * len(order)) if named else 9, 4.2)
    accuracy, confidence = 100 * found.accuracy[order], 100 * found.confidence[order]
    if named:
        axes.bar(x, accuracy, color=style.SKY, label="accuracy")
        axes.plot(x, confidence, "D", color=style.RED, ms=5, label="mean confidence on its images")
        labels = [style.plain(style.short(names[k], 18)) for k in order]
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(x, labels, **(turned if max(map(len, labels)) > 3 else {}))
    else:
        axes.fill_between(x, accuracy, step="mid", color=style.SKY, label="accuracy")
        axes.plot(x, confidence, ".", color=style.RED, ms=2, label="mean confidence on its images")
        axes.set_xlabel("classes, from the worst to the best")
    axes.set_ylabel("%")
    axes.set_ylim(0, 119)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="x", visible=False)
    axes.set_title(
        f"Classes: accuracy {accuracy[0]:.1f} % of the worst, {accuracy[-1]:.1f} % of the best",
        fontsize=11,
    )
    axes.legend(fontsize=9, frameon=False, loc="upper left", ncols=2)
    return figure


def corruptions(found: Mapping[str, tuple[Sequence[str], Sequence[int], np.ndarray]]) -> Figure:
    """Accuracy over severity, one panel for each corruption and one for their mean.

    Args:
      found: for each run the names, the severities, and accuracy f64[names, severities + 1], the
        first of clean images.
    """
    names = next(iter(found.values()))[0]
    panels = [*names, "mean"] if len(names) > 1 else list(names)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = style.new(2.7 * columns + 0.6, 2.1 * rows + 0.7, rows, columns)
    flat = list(np.atleast_1d(grid).flat)
    styles = list(zip(found.items(), style.colors(), strict=False))
    for axes, panel in zip(flat, panels, strict=False):
        for (run, (_, severities, accuracy)), (color, marker) in styles:
            y = accuracy.mean(axis=0) if panel == "mean" else accuracy[names.index(panel)]
            x = [0, *severities]
            axes.plot(x, 100 * y, color=color, marker=marker, ms=4, label=run)
        axes.set_title(panel.replace("_", " "), fontsize=10)
        axes.set_ylim(0, 103)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.label_outer()
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("severity (0: clean)", fontsize=10)
    figure.supylabel("top-1 accuracy", fontsize=10)
    flat[0].legend(fontsize=8, frameon=False, loc="lower left")
    return figure
