"""What a study found: a CSV file, tables of means over seeds, figures of gains."""

import operator
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from didicm_jax import files, plots
from didicm_jax.config import durations
from didicm_jax.plots import study as figures
from didicm_jax.study import methods
from didicm_jax.study.folder import Record
from didicm_jax.study.rows import (
    ALL,
    MATCHED,
    SHOWN,
    STOPPED,
    UNMATCHED,
    Baseline,
    Difference,
    Metric,
    Place,
    Row,
    best_of,
    difference_of,
    find_sampler,
    gain_of,
    rows_of,
    sampler_keys,
    select,
)

# In the CSV file, for both splits.
_METRICS = ("top1", "top5", "nll", "ece", "ece_equal_mass", "brier", "entropy")
_SCALED = ("nll_scaled", "ece_scaled")
_CURVES = ALL[:-1]  # the ECE that a temperature leaves is hardly more than its own noise


def line(record: Record) -> str:
    """What a finished cell reached, in a few words."""
    first = record["samplers"][0]
    test = first["test"]
    return (
        f"{first['label']}, top-1 {100 * test['top1']:.2f} %, NLL {test['nll']:.3f}, "
        f"ECE {test['ece']:.3f}, {record['training']['seconds_of_last_start']:.0f} s"
    )


def write(records: Sequence[Record], folder: Path, following: Collection[str] = ()) -> list[Path]:
    """Writes `results.csv`, `results.md`, `samplers.md` and the figures; returns their paths.

    Args:
      records: of the cells that are done.
      folder: where to.
      following: axes that `axes.following` finds in the whole study: for the CSV file alone.
    """
    rows = rows_of(records, following)
    written = [folder / name for name in ("results.csv", "results.md", "samplers.md")]
    files.write_csv(written[0], _csv(records))
    for path, text in zip(written[1:], (_markdown(rows), _samplers(rows)), strict=True):
        files.write_whole(path, operator.methodcaller("write", text.encode()))
    last = [row for row in rows if not row.stopped]
    drawn = {f"gain_{metric.key}": _heat_map(last, metric) for metric in SHOWN}
    drawn |= {"difficulty": _difficulty(rows), "curves": _curves(last)}
    drawn |= {"compute": figures.compute(_points(last))}
    for name, figure in drawn.items():
        if figure is not None:
            written.append(folder / f"{name}.png")
            plots.save(figure, written[-1])
    return written


def _with_error(values: Sequence[float], digits: int) -> str:
    mean, error = _mean(values)
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if len(values) > 1 else "")


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Over seeds, and its standard error, 0 where there is but one."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.fmean(values), error


def _interval(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return ""
    end = "" if difference.half is None else f" ± {difference.half:.{digits}f}"
    return f"{difference.value:+.{digits}f}{end}"


def _baselines(rows: Sequence[Row]) -> tuple[Baseline, ...]:
    """What methods are compared with."""
    stopped = any(row.stopped for row in rows)
    return (UNMATCHED, MATCHED, STOPPED) if stopped else (UNMATCHED, MATCHED)


def _markdown(rows: Sequence[Row]) -> str:
    baselines = _baselines(rows)
    names = [name for name, _ in rows[0].place]
    selected = select(rows)
    means, gaps = [], []
    for row in rows:
        first = next(iter(row.chosen.values()))
        training = next(iter(row.cells.values()))["training"]
        place = [value for _, value in row.place]
        name = f"**{row.name}**" if row is selected.get(row.place) else row.name
        sampler = f"{first['label']}, {first['steps']}"
        costs = [f"{first['plain_passes']:.2f}", f"{training['step_in_plain_steps']:.2f}"]
        means.append([*place, name, sampler, *costs, *_values(row.chosen), len(row.chosen)])
        gaps.append([*place, name])
        for metric in ALL:
            for baseline in baselines:
                best = best_of(rows, row.place, metric, baseline, row.chosen)
                found = difference_of(row, best, metric)
                gaps[-1].append(_interval(found, metric.digits))
    titles = [metric.title for metric in ALL]
    headers = [f"{title}, {baseline.word}" for title in titles for baseline in baselines]
    return (
        _table(means, [*names, "method", "sampler", "passes", "training", *titles, "seeds"])
        + "\nMeans ± standard error over seeds, on the test split. Passes: operations for a "
        "posterior, in passes of the plain network. Training: operations of a step, in steps of "
        "the classifier. Scaled: by the temperature of the least NLL on the held-out examples. "
        "Chosen: of all samplers of a method that reports one, the one of the least NLL on the "
        "held-out examples. Bold: of the methods that may choose, the one that the held-out "
        "examples choose."
        + (
            " Stopped: by the checkpoint, and the sampler, that the held-out examples choose."
            if STOPPED in baselines
            else ""
        )
        + "\n\n"
        + _table(gaps, [*names, "method", *headers])
        + "\nDifferences with intervals of 95 %, paired by seed and test example, against the "
        f"classifier that is best in the metric among the paper's baselines "
        f"({', '.join(methods.UNMATCHED)}) and among the matched ones "
        f"({', '.join(methods.MATCHED)}). An interval covers the choice of the test examples "
        "(jackknife) and, where there are several, that of the seeds (Student's).\n"
    )


def _samplers(rows: Sequence[Row]) -> str:
    names = [name for name, _ in rows[0].place]
    body = []
    for row in rows:
        if row.free or row.stopped:
            continue
        for key in sampler_keys(row.cells):
            found = {seed: find_sampler(record, key) for seed, record in row.cells.items()}
            passes = f"{next(iter(found.values()))['plain_passes']:.2f}"
            body.append([*(v for _, v in row.place), row.method, *key, passes, *_values(found)])
    titles = [metric.title for metric in ALL]
    return _table(body, [*names, "method", "sampler", "steps", "passes", *titles]) + (
        "\nEvery sampler of every method, on the test split: means ± standard error over seeds.\n"
    )


def _values(chosen: Mapping[int, Record]) -> list[str]:
    """Each metric over the seeds."""
    tests = [each["test"] for each in chosen.values()]
    return [_with_error([m.scale * test[m.key] for test in tests], m.digits) for m in ALL]


def _table(body: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True) + "\n"


def _csv(records: Sequence[Record]) -> list[list[Any]]:
    names = list(records[0]["values"])
    costs = [
        *("gigaflops", "step_in_plain_steps", "steps", "images"),
        *("skipped_steps", "exploding_share", "largest_grad_norm"),
    ]
    header = [*names, "checkpoint", "sampler", "sampler_steps"]
    header += ["megaflops", "plain_passes", "temperature"]
    header += [f"training_{key}" for key in costs] + ["parameters"]
    header += [
        f"{split}_{key}" for split in ("validation", "test") for key in (*_METRICS, *_SCALED)
    ]
    result = [header]
    for record in records:
        last = [(record["training"]["steps"], each) for each in record["samplers"]]
        stopped = record.get("stopped", {"step": 0, "samplers": []})
        for step, each in [*last, *((stopped["step"], each) for each in stopped["samplers"])]:
            line = [record["values"][name] for name in names]
            line += [step, each["label"], each["steps"]]
            line += [each[key] for key in ("megaflops", "plain_passes", "temperature")]
            line += [record["training"][key] for key in costs] + [record["parameters"]]
            for split in ("validation", "test"):
                line += [each[split][key] for key in (*_METRICS, *_SCALED)]
            result.append(line)
    return result


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
    places = list(dict.fromkeys(row.place for row in rows))
    first = list(dict.fromkeys(place[:1] for place in places))
    others = list(dict.fromkeys(place[1:] for place in places))
    panels = []
    for method, found in compared.items():
        values = np.full((len(first), len(others)), np.nan)
        for place, row in found.items():
            gain = gain_of(row, best_of(rows, place, metric, MATCHED, row.chosen), metric)
            if gain is not None:
                values[first.index(place[:1]), others.index(place[1:])] = gain.value
        panels.append(figures.Map(method, values))
    return figures.gains(panels, _labels(first, "row"), _labels(others, ""), metric.gain)


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
    panels, baselines = [], _baselines(rows)
    for metric in SHOWN:
        for baseline in baselines:
            lines: dict[str, list[figures.Gain]] = {}
            for row in (row for row in compared if row.stopped == baseline.stopped):
                best = best_of(rows, row.place, metric, baseline, row.chosen)
                gain = gain_of(row, best, metric)
                if gain is not None:
                    point = figures.Gain(places.index(row.place), gain.value, gain.half or 0)
                    lines.setdefault(row.label, []).append(point)
            panels.append(figures.Panel(f"over {baseline.title}", lines, metric.gain))
    names, values = _labels(places, "")
    labels = [f"{v}\n{100 * ease[p]:.0f} %" for v, p in zip(values, places, strict=True)]
    what = f"{names}; top-1 of the best matched classifier".lstrip("; ")
    return figures.difficulty(panels, len(baselines), labels, what)


def _curves(rows: Sequence[Row]) -> Any:
    """Each metric over the last coordinate, one row of panels for each of the others.

    None where that is no number or duration, or has not three values.
    """
    if not rows[0].place:
        return None
    axis = rows[0].place[-1][0]
    at = {row.place[-1][1]: _number(row.place[-1][1]) for row in rows}
    units = {unit for _, unit in at.values()}
    unit = units.pop()
    if len(at) < 3 or units or unit is None:
        return None
    panels = []
    for other in dict.fromkeys(row.place[:-1] for row in rows):
        for metric in _CURVES:
            lines: dict[str, list[figures.At]] = {}
            for row in rows:
                if row.place[:-1] == other:
                    values = [metric.scale * value for value in row.over_seeds(metric.key)]
                    point = figures.At(at[row.place[-1][1]][0], *_mean(values))
                    lines.setdefault(row.name, []).append(point)
            panels.append(figures.Curves(_title(other), metric.title, lines))
    return figures.curves(panels, len(_CURVES), f"{axis} ({unit})" if unit else axis)


def _number(value: Any) -> tuple[float, str | None]:
    """A coordinate as a number and its unit, "" for a bare one and None for what is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), ""
    return (isinstance(value, str) and durations.parse(value)) or (0.0, None)


def _title(place: Place) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in place)


def _labels(places: Sequence[Place], default: str) -> tuple[str, list[str]]:
    names = ", ".join(name for name, _ in places[0]) or default
    return names, [", ".join(str(value) for _, value in place) for place in places]


def _points(rows: Sequence[Row]) -> Mapping[str, Mapping[str, list[figures.Point]]]:
    """Every sampler of every method at every place."""
    found: dict[str, dict[str, list[figures.Point]]] = {}
    for row in rows:
        found.setdefault(_title(row.place), {})[row.method] = [
            _point([find_sampler(record, key) for record in row.cells.values()])
            for key in sampler_keys(row.cells)
        ]
    return found


def _point(seeds: Sequence[Record]) -> figures.Point:
    top1, error = _mean([100 * each["test"]["top1"] for each in seeds])
    joined = seeds[0]["sampler"] == "cp" and seeds[0]["integrator"] == "euler"
    return figures.Point(seeds[0]["plain_passes"], top1, error, joined)
