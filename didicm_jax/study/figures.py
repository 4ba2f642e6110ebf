"""What a study found as figures: gains, metrics over an axis, and accuracy against compute."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from didicm_jax.plots import study as plots
from didicm_jax.study import methods
from didicm_jax.study.coordinates import Place, in_order, numbers_of
from didicm_jax.study.folder import Record
from didicm_jax.study.rows import (
    ALL,
    MATCHED,
    SHOWN,
    Metric,
    Row,
    baselines_of,
    best_of,
    find_sampler,
    gain_of,
    mean_of,
    sampler_keys,
    select,
)

_CURVES = ALL[:-1]  # the ECE that a temperature leaves is hardly more than its own noise


def of(rows: Sequence[Row]) -> dict[str, Any]:
    """Each figure by its name; None where the study has nothing to show in it."""
    last = [row for row in rows if not row.stopped]
    found = {f"gain_{metric.key}": _heat_map(last, metric) for metric in SHOWN}
    found |= {"difficulty": _difficulty(rows), "curves": _curves(last)}
    return found | {"compute": plots.compute(_points(last))}


def _heat_map(rows: Sequence[Row], metric: Metric) -> Any:
    """Gains over the best matched classifier; None where there is none, or nothing to compare."""
    compared: dict[str, dict[Place, Row]] = {}
    for row in rows:
        if row.method not in methods.MATCHED:
            compared.setdefault(row.name, {})[row.place] = row
    if not compared or not any(row.method in methods.MATCHED for row in rows):
        return None
    selected = select(rows)
    if len({row.method for row in selected.values()}) > 1:
        compared["chosen of them"] = selected
    first = in_order(row.place[:1] for row in rows)
    others = in_order(row.place[1:] for row in rows)
    panels = []
    for method, found in compared.items():
        values = np.full((len(first), len(others)), np.nan)
        for place, row in found.items():
            gain = gain_of(row, best_of(rows, place, metric, MATCHED, row.chosen), metric)
            if gain is not None:
                values[first.index(place[:1]), others.index(place[1:])] = gain.value
        panels.append(plots.Map(method, values))
    return plots.gains(panels, _labels(first, "row"), _labels(others, ""), metric.gain)


def _difficulty(rows: Sequence[Row]) -> Any:
    """Gains over both baselines side by side, from the easiest place to the hardest.

    None where one of the baselines, or anything to compare with them, is missing.
    """
    top1 = SHOWN[0]
    matched = {row.place: best_of(rows, row.place, top1, MATCHED) for row in rows}
    ease = {p: statistics.fmean(row.over_seeds("top1")) for p, row in matched.items() if row}
    places = sorted(ease, key=lambda place: -ease[place])
    classifiers = {*methods.MATCHED, *methods.UNMATCHED}
    compared = [row for row in rows if row.method not in classifiers and row.place in ease]
    if not compared or not any(row.method in methods.UNMATCHED for row in rows):
        return None
    panels, baselines = [], baselines_of(rows)
    for metric in SHOWN:
        for baseline in baselines:
            lines: dict[str, list[plots.Gain]] = {}
            for row in (row for row in compared if row.stopped == baseline.stopped):
                best = best_of(rows, row.place, metric, baseline, row.chosen)
                gain = gain_of(row, best, metric)
                if gain is not None:
                    point = plots.Gain(places.index(row.place), gain.value, gain.half or 0)
                    lines.setdefault(row.label, []).append(point)
            panels.append(plots.Panel(f"over {baseline.title}", lines, metric.gain))
    names, values = _labels(places, "")
    labels = [f"{v}\n{100 * ease[p]:.0f} %" for v, p in zip(values, places, strict=True)]
    what = f"{names}; top-1 of the best matched classifier".lstrip("; ")
    return plots.difficulty(panels, len(baselines), labels, what)


def _curves(rows: Sequence[Row]) -> Any:
    """Each metric over the last coordinate, one row of panels for each of the others.

    None where that is no number or duration, or has not three values.
    """
    if not rows[0].place:
        return None
    axis = rows[0].place[-1][0]
    at = numbers_of(row.place[-1][1] for row in rows)
    if at is None or len(at.values) < 3:
        return None
    panels = []
    for other in dict.fromkeys(row.place[:-1] for row in rows):
        for metric in _CURVES:
            lines: dict[str, list[plots.At]] = {}
            for row in rows:
                if row.place[:-1] == other:
                    values = [metric.scale * value for value in row.over_seeds(metric.key)]
                    point = plots.At(at.values[row.place[-1][1]], *mean_of(values))
                    lines.setdefault(row.name, []).append(point)
            panels.append(plots.Curves(_title(other), metric.title, lines))
    return plots.curves(panels, len(_CURVES), f"{axis} ({at.unit})" if at.unit else axis)


def _title(place: Place) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in place)


def _labels(places: Sequence[Place], default: str) -> tuple[str, list[str]]:
    names = ", ".join(name for name, _ in places[0]) or default
    return names, [", ".join(str(value) for _, value in place) for place in places]


def _points(rows: Sequence[Row]) -> Mapping[str, Mapping[str, list[plots.Point]]]:
    """Every sampler of every method at every place."""
    found: dict[str, dict[str, list[plots.Point]]] = {}
    for row in rows:
        found.setdefault(_title(row.place), {})[row.method] = [
            _point([find_sampler(record, key) for record in row.cells.values()])
            for key in sampler_keys(row.cells)
        ]
    return found


def _point(seeds: Sequence[Record]) -> plots.Point:
    top1, error = mean_of([100 * each["test"]["top1"] for each in seeds])
    joined = seeds[0]["sampler"] == "cp" and seeds[0]["integrator"] == "euler"
    return plots.Point(seeds[0]["plain_passes"], top1, error, joined)
