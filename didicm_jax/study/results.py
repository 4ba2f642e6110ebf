"""What a study found: a CSV file, tables of means over seeds, figures of gains."""

import math
import operator
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from didicm_jax import evaluation, files, plots
from didicm_jax.plots import study as figures
from didicm_jax.study import axes, methods
from didicm_jax.study.folder import Record

Place = tuple[tuple[str, Any], ...]  # where a cell lies, whatever its method and seed

# In the CSV file, for both splits.
_METRICS = ("top1", "top5", "nll", "ece", "ece_equal_mass", "brier", "entropy")
_SCALED = ("nll_scaled", "ece_scaled")


class Metric(NamedTuple):
    """How a metric is shown, and what counts as a gain in it."""

    key: str
    title: str
    scale: float
    digits: int
    gain: str  # name and unit
    relative: bool  # in per cent of the baseline, less being better


_SHOWN = (
    Metric("top1", "top-1 %", 100, 2, "gain in top-1 (points)", False),
    Metric("nll", "NLL", 1, 3, "reduction of the NLL (%)", True),
    Metric("ece", "ECE", 1, 3, "reduction of the ECE (%)", True),
)
_ALL = (
    *_SHOWN,
    Metric("nll_scaled", "NLL, scaled", 1, 3, "reduction of the scaled NLL (%)", True),
    Metric("ece_scaled", "ECE, scaled", 1, 3, "reduction of the scaled ECE (%)", True),
)
_MATCHED = "the matched classifier"
# What the methods are compared with, and the classifiers of which the best is meant.
_BASELINES = {"the paper's baseline": methods.UNMATCHED, _MATCHED: methods.MATCHED}
_NORMAL = 1.96  # standard errors on each side of an interval of 95 %


class Row(NamedTuple):
    """One method at one place: a record of its reported sampler for each seed."""

    place: Place
    method: str
    free: bool  # chosen on the held-out examples among all samplers of a method that reports one
    chosen: dict[int, Record]
    cells: dict[int, Record]

    @property
    def name(self) -> str:
        """For tables and legends."""
        return f"{self.method}, chosen" if self.free else self.method

    def over_seeds(self, key: str) -> list[float]:
        """A test metric of each seed, in order."""
        return [self.chosen[seed]["test"][key] for seed in sorted(self.chosen)]


class Difference(NamedTuple):
    """Of a method and a baseline, paired by seed and by test example."""

    value: float
    error: float | None  # standard error; None where one seed of an old record is all there is


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
    rows = _rows(records, following)
    written = [folder / name for name in ("results.csv", "results.md", "samplers.md")]
    files.write_csv(written[0], _csv(records))
    for path, text in zip(written[1:], (_markdown(rows), _samplers(rows)), strict=True):
        files.write_whole(path, operator.methodcaller("write", text.encode()))
    drawn = {f"gain_{metric.key}": _heat_map(rows, metric) for metric in _SHOWN}
    drawn |= {"difficulty": _difficulty(rows), "compute": figures.compute(_points(rows))}
    for name, figure in drawn.items():
        if figure is not None:
            written.append(folder / f"{name}.png")
            plots.save(figure, written[-1])
    return written


def _rows(records: Sequence[Record], following: Collection[str]) -> list[Row]:
    groups: dict[tuple[Place, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        values = record["values"]
        found = axes.coordinates(values)
        place = tuple((axis, value) for axis, value in found.items() if axis not in following)
        groups[place, values.get(axes.METHOD, "")][values.get(axes.SEED, 0)] = record
    rows = []
    for (place, method), cells in groups.items():
        limit = methods.find(method).passes if method else None
        reported = _keys(cells)[0] if limit is None else _choose(cells, limit)
        best = _choose(cells, math.inf)
        for free, key in ((False, reported), (True, best)):
            if not free or (limit is None and len(_keys(cells)) > 1):
                chosen = {seed: _sampler(record, key) for seed, record in cells.items()}
                rows.append(Row(place, method, free, chosen, cells))
    order = {place: i for i, place in enumerate(dict.fromkeys(row.place for row in rows))}
    names = ["", *methods.METHODS]

    def rank(row: Row) -> tuple[int, int, str, bool]:
        name = row.method.removesuffix(methods.EQUAL_COMPUTE)
        return order[row.place], names.index(name), row.method, row.free

    return sorted(rows, key=rank)


def _key(sampler: Record) -> tuple[str, int]:
    """What a sampler is told apart by."""
    return sampler["label"], sampler["steps"]


def _keys(cells: Mapping[int, Record]) -> list[tuple[str, int]]:
    """The samplers that all seeds were asked for: later versions may ask for more."""
    every = [[_key(each) for each in record["samplers"]] for record in cells.values()]
    return [key for key in every[0] if all(key in keys for keys in every)]


def _sampler(record: Record, key: tuple[str, int]) -> Record:
    return next(each for each in record["samplers"] if _key(each) == key)


def _choose(cells: Mapping[int, Record], limit: float) -> tuple[str, int]:
    """The sampler to report of those within so many passes: no test example has a say in it."""
    keys, first = _keys(cells), next(iter(cells.values()))
    allowed = [key for key in keys if _sampler(first, key)["plain_passes"] <= limit]
    return min(
        allowed or keys,
        key=lambda key: statistics.fmean(
            _sampler(cell, key)["validation"]["nll"] for cell in cells.values()
        ),
    )


def _selected(rows: Sequence[Row]) -> dict[Place, Row]:
    """Of the methods that may choose, the one with the least NLL on the held-out examples."""
    found: dict[Place, Row] = {}
    for row in rows:
        if row.method and methods.find(row.method).passes is not None:
            held = found.setdefault(row.place, row)
            found[row.place] = min(held, row, key=_held_out_nll)
    return found


def _held_out_nll(row: Row) -> float:
    return statistics.fmean(record["validation"]["nll"] for record in row.chosen.values())


def _best(rows: Sequence[Row], place: Place, metric: Metric, baseline: str) -> Row | None:
    """Of a baseline's classifiers the one with the best mean on the test split: the hardest."""
    found = [row for row in rows if row.place == place and row.method in _BASELINES[baseline]]
    sign = 1 if metric.relative else -1
    return min(
        found,
        key=lambda row: sign * statistics.fmean(row.over_seeds(metric.key)),
        default=None,
    )


def _difference(row: Row, baseline: Row | None, metric: Metric) -> Difference | None:
    """In the unit of the table, over the seeds that both have; None where there is none."""
    seeds = sorted(row.chosen.keys() & baseline.chosen.keys()) if baseline else []
    if not baseline or not seeds or (row.method == baseline.method):
        return None
    pairs = [(row.chosen[seed], baseline.chosen[seed]) for seed in seeds]
    values = [ours["test"][metric.key] - theirs["test"][metric.key] for ours, theirs in pairs]
    variances = [statistics.variance(values) / len(values)] if len(values) > 1 else []
    kept = [[np.array(each.get("left_out", {}).get(metric.key, ())) for each in p] for p in pairs]
    if all(len(ours) == len(theirs) > 1 for ours, theirs in kept):
        # All seeds are judged on the same test examples.
        gaps = np.mean([ours - theirs for ours, theirs in kept], axis=0)
        variances.append(evaluation.jackknife_error(gaps) ** 2)
    error = metric.scale * math.sqrt(sum(variances)) if variances else None
    return Difference(metric.scale * statistics.fmean(values), error)


def _with_error(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def _interval(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return ""
    value, error = difference
    end = "" if error is None else f" ± {_NORMAL * error:.{digits}f}"
    return f"{value:+.{digits}f}{end}"


def _markdown(rows: Sequence[Row]) -> str:
    names = [name for name, _ in rows[0].place]
    selected = _selected(rows)
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
        for metric in _ALL:
            for baseline in _BASELINES:
                found = _difference(row, _best(rows, row.place, metric, baseline), metric)
                gaps[-1].append(_interval(found, metric.digits))
    titles = [metric.title for metric in _ALL]
    headers = [f"{title}, {word}" for title in titles for word in ("paper's", "matched")]
    return (
        _table(means, [*names, "method", "sampler", "passes", "training", *titles, "seeds"])
        + "\nMeans ± standard error over seeds, on the test split. Passes: operations for a "
        "posterior, in passes of the plain network. Training: operations of a step, in steps of "
        "the classifier. Scaled: by the temperature of the least NLL on the held-out examples. "
        "Chosen: of all samplers of a method that reports one, the one of the least NLL on the "
        "held-out examples. Bold: of the methods that may choose, the one that the held-out "
        "examples choose.\n\n"
        + _table(gaps, [*names, "method", *headers])
        + "\nDifferences with intervals of 95 %, paired by seed and test example, against the "
        f"classifier that is best in the metric among the paper's baselines "
        f"({', '.join(methods.UNMATCHED)}) and among the matched ones "
        f"({', '.join(methods.MATCHED)}). An interval covers the choice of the test examples "
        "(jackknife) and, where there are several, that of the seeds.\n"
    )


def _samplers(rows: Sequence[Row]) -> str:
    names = [name for name, _ in rows[0].place]
    body = []
    for row in rows:
        if row.free:
            continue
        for key in _keys(row.cells):
            found = {seed: _sampler(record, key) for seed, record in row.cells.items()}
            passes = f"{next(iter(found.values()))['plain_passes']:.2f}"
            body.append([*(v for _, v in row.place), row.method, *key, passes, *_values(found)])
    titles = [metric.title for metric in _ALL]
    return _table(body, [*names, "method", "sampler", "steps", "passes", *titles]) + (
        "\nEvery sampler of every method, on the test split: means ± standard error over seeds.\n"
    )


def _values(chosen: Mapping[int, Record]) -> list[str]:
    """Each metric over the seeds."""
    tests = [each["test"] for each in chosen.values()]
    return [_with_error([m.scale * test[m.key] for test in tests], m.digits) for m in _ALL]


def _table(body: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    return tabulate(body, headers, tablefmt="pipe", disable_numparse=True) + "\n"


def _csv(records: Sequence[Record]) -> list[list[Any]]:
    names = list(records[0]["values"])
    costs = [
        *("gigaflops", "step_in_plain_steps", "steps", "images"),
        *("skipped_steps", "exploding_share", "largest_grad_norm"),
    ]
    header = [*names, "sampler", "sampler_steps", "megaflops", "plain_passes", "temperature"]
    header += [f"training_{key}" for key in costs] + ["parameters"]
    header += [
        f"{split}_{key}" for split in ("validation", "test") for key in (*_METRICS, *_SCALED)
    ]
    result = [header]
    for record in records:
        for each in record["samplers"]:
            line = [record["values"][name] for name in names]
            line += [each["label"], each["steps"]]
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
    selected = _selected(rows)
    if len({row.method for row in selected.values()}) > 1:
        compared["chosen of them"] = selected
    places = list(dict.fromkeys(row.place for row in rows))
    first = list(dict.fromkeys(place[:1] for place in places))
    others = list(dict.fromkeys(place[1:] for place in places))
    panels = []
    for method, found in compared.items():
        values = np.full((len(first), len(others)), np.nan)
        for place, row in found.items():
            gain = _gain(row, _best(rows, place, metric, _MATCHED), metric)
            if gain is not None:
                values[first.index(place[:1]), others.index(place[1:])] = gain.value
        panels.append(figures.Map(method, values))
    return figures.gains(panels, _labels(first, "row"), _labels(others, ""), metric.gain)


def _gain(row: Row, baseline: Row | None, metric: Metric) -> Difference | None:
    """More is better: points, or per cent of the baseline."""
    found = _difference(row, baseline, metric)
    if found is None or baseline is None or not metric.relative:
        return found
    factor = -100 / (metric.scale * statistics.fmean(baseline.over_seeds(metric.key)))
    error = None if found.error is None else abs(factor) * found.error
    return Difference(factor * found.value, error)


def _difficulty(rows: Sequence[Row]) -> Any:
    """Gains over both baselines side by side, from the easiest place to the hardest.

    None where one of the baselines, or anything to compare with them, is missing.
    """
    top1 = _SHOWN[0]
    matched = {row.place: _best(rows, row.place, top1, _MATCHED) for row in rows}
    ease = {p: statistics.fmean(row.over_seeds("top1")) for p, row in matched.items() if row}
    places = sorted(ease, key=lambda place: -ease[place])
    classifiers = {*methods.MATCHED, *methods.UNMATCHED}
    compared = [row for row in rows if row.method not in classifiers and row.place in ease]
    if not compared or not any(row.method in methods.UNMATCHED for row in rows):
        return None
    panels = []
    for metric in _SHOWN:
        for baseline in _BASELINES:
            lines: dict[str, list[figures.Gain]] = {}
            for row in compared:
                gain = _gain(row, _best(rows, row.place, metric, baseline), metric)
                if gain is not None:
                    error = _NORMAL * (gain.error or 0)
                    point = figures.Gain(places.index(row.place), gain.value, error)
                    lines.setdefault(row.name, []).append(point)
            panels.append(figures.Panel(f"over {baseline}", lines, metric.gain))
    names, values = _labels(places, "")
    labels = [f"{v}\n{100 * ease[p]:.0f} %" for v, p in zip(values, places, strict=True)]
    what = f"{names}; top-1 of the best matched classifier".lstrip("; ")
    return figures.difficulty(panels, len(_BASELINES), labels, what)


def _labels(places: Sequence[Place], default: str) -> tuple[str, list[str]]:
    names = ", ".join(name for name, _ in places[0]) or default
    return names, [", ".join(str(value) for _, value in place) for place in places]


def _points(rows: Sequence[Row]) -> Mapping[str, Mapping[str, list[figures.Point]]]:
    """Every sampler of every method at every place."""
    found: dict[str, dict[str, list[figures.Point]]] = {}
    for row in rows:
        place = ", ".join(f"{key}={value}" for key, value in row.place)
        found.setdefault(place, {})[row.method] = [
            _point([_sampler(record, key) for record in row.cells.values()])
            for key in _keys(row.cells)
        ]
    return found


def _point(seeds: Sequence[Record]) -> figures.Point:
    top1 = [100 * each["test"]["top1"] for each in seeds]
    error = statistics.stdev(top1) / len(top1) ** 0.5 if len(top1) > 1 else 0.0
    joined = seeds[0]["sampler"] == "cp" and seeds[0]["integrator"] == "euler"
    return figures.Point(seeds[0]["plain_passes"], statistics.fmean(top1), error, joined)
