"""The curves of training runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

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
    figure, grid = style.new(13, 6.4, 2, 3)
    for (key, label), axes in zip(_PANELS, grid.flat, strict=True):
        for (name, records), (color, marker) in zip(runs.items(), style.colors(), strict=False):
            x, y = series(records, key)
            if key == "eval/top1":
                y = 100 * y
            if key == "loss":
                axes.plot(x, y, color=color, linewidth=0.7, alpha=0.3)
                axes.plot(x, smoothed(y), color=color, linewidth=1.8, label=name)
            elif key.startswith("eval/"):
                axes.plot(x, y, color=color, marker=marker, ms=4, label=name)
            else:
                axes.plot(x, y, color=color, linewidth=1.5, label=name)
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        if key == "images_per_second":
            axes.set_ylim(bottom=0)
    for axes in grid[1]:
        axes.set_xlabel("step")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    texts = [style.plain(style.short(label, 40)) for label in labels]
    columns = max(1, min(4, len(texts)))
    figure.legend(
        handles, texts, loc="outside upper center", ncols=columns, frameon=False, fontsize=10
    )
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
