"""The curves of training runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from didicm_jax.plots import style

_PANELS = (
    ("loss", "training loss"),
    ("learning_rate", "learning rate"),
    ("images_per_second", "images per second"),
    ("eval/top1", "top-1 accuracy (%)"),
    ("eval/nll", "negative log-likelihood (nats)"),
    ("eval/ece", "expected calibration error"),
)
# Of the loss: the share of the records that a smoothed point averages over.
_WINDOW = 0.02


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss, learning rate, throughput and evaluations over the steps, one colour a run.

    Args:
      runs: by name, the records of `metrics.jsonl`; a value that is None was not finite and leaves
        a gap.
    """
    # A run that was not evaluated yet has fewer panels.
    panels = [
        (key, label)
        for key, label in _PANELS
        if any(key in record for records in runs.values() for record in records)
    ]
    rows, columns = style.grid(len(panels), 3)
    figure, grid = style.new(3.6 * columns, 2.7 * rows + 0.3, rows, columns)
    flat = list(np.ravel(grid))
    for number, ((key, label), axes) in enumerate(zip(panels, flat, strict=False)):
        drawn = False
        for (name, records), (color, marker) in zip(runs.items(), style.colors(), strict=False):
            x, y = series(records, key)
            drawn = drawn or bool(np.any(np.isfinite(y)))
            if key == "eval/top1":
                y = 100 * y
            if key == "loss":
                axes.plot(x, y, color=color, linewidth=0.7, alpha=0.3)
                y = smoothed(y)
            every = 1 if key.startswith("eval/") else style.every(len(x), 6)
            axes.plot(x, y, color=color, marker=marker, ms=4, markevery=every, label=name)
        axes.set_ylabel(label)
        if not drawn:
            axes.text(0.5, 0.5, "no finite value", ha="center", transform=axes.transAxes)
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if key == "images_per_second":
            axes.set_ylim(bottom=0)
        if number + columns >= len(panels):
            axes.set_xlabel("step")
        low, high = axes.dataLim.intervaly
        if key in ("loss", "eval/nll") and 0 < 30 * low < high < np.inf:
            style.logarithmic(axes, axes.yaxis)  # else one value that exploded hides all others
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    handles, labels = flat[0].get_legend_handles_labels()
    style.legend(figure, handles, style.distinct(labels, 40))
    return figure


def series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps i64[n] and values f64[n] of the records that have `key`; NaN where it is None."""
    found = [(record["step"], record[key]) for record in records if key in record]
    steps = np.array([step for step, _ in found], np.int64)
    return steps, np.array([np.nan if v is None else v for _, v in found], np.float64)


def smoothed(values: np.ndarray) -> np.ndarray:
    """A centred moving mean that leaves out what is not finite."""
    half = round(_WINDOW * len(values) / 2)
    if half < 1:
        return values
    good = np.isfinite(values)
    window = np.ones(2 * half + 1)
    total = np.convolve(np.where(good, values, 0.0), window, "same")
    count = np.convolve(good.astype(np.float64), window, "same")
    with np.errstate(invalid="ignore"):
        return np.where(good, total / count, np.nan)
