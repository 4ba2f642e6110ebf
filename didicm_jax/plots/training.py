"""The curves of training runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

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
    looks = dict(zip(runs, style.colors(), strict=False))
    sets = dict.fromkeys(name for found in evaluations.values() for name in found)
    dashes = dict(zip(sets, itertools.cycle(_DASHES), strict=False))
    # A run that was not evaluated yet has fewer panels.
    panels = [*_TRAINING, *(_EVALUATION if sets else ())]
    rows, columns = style.grid(len(panels), 3)
    figure, grid = style.new(3.6 * columns, 2.7 * rows + 0.3, rows, columns)
    for number, ((key, label), axes) in enumerate(zip(panels, grid.flat, strict=True)):
        if number < len(_TRAINING):
            _training(axes, key, runs, looks)
        else:
            _evaluation(axes, key, evaluations, looks, dashes)
        axes.set_ylabel(label)
        low, high = axes.dataLim.intervaly
        if not low <= high < np.inf:
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
        if key in ("loss", "nll") and 0 < 30 * low < high:
            style.logarithmic(axes, axes.yaxis)  # else one value that exploded hides all others
    handles = [Line2D([], [], color=color, marker=marker, ms=4) for color, marker in looks.values()]
    texts = style.distinct(list(runs), 40)
    if len(sets) > 1:
        handles += [Line2D([], [], color=style.GREY, linestyle=each) for each in dashes.values()]
        texts += style.distinct([name or "data.eval_split" for name in sets], 30)
    style.legend(figure, handles, texts)
    return figure


def _training(
    axes: Axes, key: str, runs: Mapping[str, Records], looks: Mapping[str, tuple[str, str]]
) -> None:
    for name, records in runs.items():
        (x, y), (color, marker) = series(records, key), looks[name]
        if key == "loss":
            axes.plot(x, y, color=color, linewidth=0.7, alpha=0.3)
            y = smoothed(y)
        every = style.every(len(x), 6)
        axes.plot(x, y, color=color, marker=marker, ms=4, markevery=every, label=name)


def _evaluation(
    axes: Axes,
    key: str,
    evaluations: Mapping[str, Mapping[str, Records]],
    looks: Mapping[str, tuple[str, str]],
    dashes: Mapping[str, Any],
) -> None:
    for name, found in evaluations.items():
        for of_set, records in found.items():
            (x, y), (color, marker) = series(records, key), looks[name]
            y = 100 * y if key == "top1" else y
            axes.plot(x, y, linestyle=dashes[of_set], color=color, marker=marker, ms=4)


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
