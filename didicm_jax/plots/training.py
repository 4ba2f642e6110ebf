"""The curves of training runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from didicm_jax.plots import style

_TRAINING = (
    ("loss", "training loss"),
    ("learning_rate", "learning rate"),
    ("images_per_second", "images per second"),
)
_EVALUATION = (
    ("top1", "top-1 accuracy (%)"),
    ("nll", "negative log-likelihood (nats)"),
    ("ece", "expected calibration error"),
)
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))
# Of the loss: the share of the records that a smoothed point averages over.
_WINDOW = 0.02


Records = Sequence[Mapping[str, Any]]  # each with its `step`


def curves(runs: Mapping[str, Records], evaluations: Mapping[str, Mapping[str, Records]]) -> Figure:
    """Loss, learning rate, throughput and evaluations over the steps.

    A colour stands for a run and, where there are several, a dash for a set of images.

    Args:
      runs: by name, the records of `metrics.jsonl`; a value that is None was not finite and leaves
        a gap.
      evaluations: by name of the run and of the set, those of evaluations, by their metrics' names.
    """
    figure, grid = style.new(13, 6.4, 2, 3)
    looks = dict(zip(runs, style.colors(), strict=False))
    for (key, label), axes in zip(_TRAINING, grid[0], strict=True):
        for name, records in runs.items():
            (x, y), color = series(records, key), looks[name][0]
            if key == "loss":
                axes.plot(x, y, color=color, linewidth=0.7, alpha=0.3)
                axes.plot(x, smoothed(y), color=color, linewidth=1.8, label=name)
            else:
                axes.plot(x, y, color=color, linewidth=1.5, label=name)
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        if key == "images_per_second":
            axes.set_ylim(bottom=0)
    sets = dict.fromkeys(name for found in evaluations.values() for name in found)
    dashes = dict(zip(sets, itertools.cycle(_DASHES), strict=False))
    for (key, label), axes in zip(_EVALUATION, grid[1], strict=True):
        for name, found in evaluations.items():
            for of_set, records in found.items():
                (x, y), (color, marker) = series(records, key), looks[name]
                y = 100 * y if key == "top1" else y
                axes.plot(x, y, dashes[of_set], color=color, marker=marker, ms=4)
        axes.set_ylabel(label)
        axes.set_xlim(left=0)
        axes.set_xlabel("step")
    if len(sets) > 1:
        lines = [Line2D([], [], color=style.GREY, linestyle=each) for each in dashes.values()]
        names = [style.plain(style.short(name or "data.eval_split", 30)) for name in sets]
        figure.legend(
            lines,
            names,
            loc="outside lower center",
            ncols=min(5, len(names)),
            frameon=False,
            fontsize=10,
            handlelength=3.5,
        )
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
