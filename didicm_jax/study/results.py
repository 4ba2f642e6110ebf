"""What a study found: a CSV file, a table of means over seeds, heat maps of gains."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from didicm_jax import files, plots
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


class Row(NamedTuple):
    """One method at one place: a record of its chosen sampler for each seed."""

    place: Place
    method: str
    chosen: dict[int, Record]
    cells: dict[int, Record]

    def over_seeds(self, key: str) -> list[float]:
        """A test metric of each seed, in order."""
        return [self.chosen[seed]["test"][key] for seed in sorted(self.chosen)]


def line(record: Record) -> str:
    """What a finished cell reached, in a few words."""
    first = record["samplers"][0]
    test = first["test"]
    return (
        f"{first['label']}, top-1 {100 * test['top1']:.2f} %, NLL {test['nll']:.3f}, "
        f"ECE {test['ece']:.3f}, {record['training']['seconds_of_last_start']:.0f} s"
    )


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Writes `results.csv`, `results.md` and the figures; returns their paths."""
    rows = _rows(records)
    files.write_csv(folder / "results.csv", _csv(records))
    text = _markdown(rows)
    files.write_whole(folder / "results.md", lambda file: file.write(text.encode()))
    written = [folder / "results.csv", folder / "results.md"]
    for metric in _SHOWN:
        figure = _heat_map(rows, metric)
        if figure is not None:
            written.append(folder / f"gain_{metric.key}.png")
            plots.save(figure, written[-1])
    written.append(folder / "compute.png")
    plots.save(figures.compute(_points(records)), written[-1])
    return written


def _rows(records: Sequence[Record]) -> list[Row]:
    groups: dict[tuple[Place, str], dict[int, Record]] = defaultdict(dict)
    for record in records:
        values = record["values"]
        place = tuple(axes.coordinates(values).items())
        groups[place, values.get(axes.METHOD, "")][values.get(axes.SEED, 0)] = record
    rows = []
    for (place, method), cells in groups.items():
        number = _choose(method, list(cells.values()))
        chosen = {seed: record["samplers"][number] for seed, record in cells.items()}
        rows.append(Row(place, method, chosen, cells))
    order = {place: i for i, place in enumerate(dict.fromkeys(row.place for row in rows))}
    names = ["", *methods.METHODS]

    def rank(row: Row) -> tuple[int, int, str]:
        name = row.method.removesuffix(methods.EQUAL_COMPUTE)
        return order[row.place], names.index(name), row.method

    return sorted(rows, key=rank)


def _choose(method: str, cells: Sequence[Record]) -> int:
    """The number of the sampler to report: no test example has a say in it."""
    limit = methods.find(method).passes if method else None
    if limit is None:
        return 0
    samplers = cells[0]["samplers"]
    allowed = [i for i, each in enumerate(samplers) if each["plain_passes"] <= limit]
    return min(
        allowed or range(len(samplers)),
        key=lambda i: statistics.fmean(cell["samplers"][i]["validation"]["nll"] for cell in cells),
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


def _best_classifier(rows: Sequence[Row], place: Place, metric: Metric) -> Row | None:
    """The matched classifier with the best mean on the test split: the hardest to beat."""
    matched = [row for row in rows if row.place == place and row.method in methods.MATCHED]
    sign = 1 if metric.relative else -1
    return min(
        matched,
        key=lambda row: sign * statistics.fmean(row.over_seeds(metric.key)),
        default=None,
    )


def _paired(row: Row, baseline: Row, metric: Metric) -> list[float]:
    """Differences of the seeds that both have, in the unit of the table."""
    seeds = sorted(row.chosen.keys() & baseline.chosen.keys())
    return [
        metric.scale * (row.chosen[s]["test"][metric.key] - baseline.chosen[s]["test"][metric.key])
        for s in seeds
    ]


def _with_error(values: Sequence[float], digits: int, sign: str = "") -> str:
    mean = f"{statistics.fmean(values):{sign}.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def _markdown(rows: Sequence[Row]) -> str:
    names = [name for name, _ in rows[0].place]
    headers = [*names, "method", "sampler", "passes", "training"]
    for metric in _SHOWN:
        headers += [metric.title, "Δ"]
    headers += ["NLL, scaled", "ECE, scaled", "seeds"]
    selected = _selected(rows)
    body = []
    for row in rows:
        first = next(iter(row.chosen.values()))
        training = next(iter(row.cells.values()))["training"]
        cells: list[Any] = [value for _, value in row.place]
        cells += [
            f"**{row.method}**" if row is selected.get(row.place) else row.method,
            first["label"] + f", {first['steps']}",
            f"{first['plain_passes']:.2f}",
        ]
        cells.append(f"{training['step_in_plain_steps']:.2f}")
        for metric in _SHOWN:
            values = [metric.scale * value for value in row.over_seeds(metric.key)]
            cells.append(_with_error(values, metric.digits))
            baseline = _best_classifier(rows, row.place, metric)
            differences = _paired(row, baseline, metric) if baseline else []
            own = baseline is None or baseline.method == row.method or not differences
            cells.append("" if own else _with_error(differences, metric.digits, "+"))
        cells += [_with_error(row.over_seeds(key), 3) for key in _SCALED]
        cells.append(len(row.chosen))
        body.append(cells)
    table = tabulate(body, headers, tablefmt="pipe", disable_numparse=True)
    return (
        f"{table}\n\nMeans ± standard error over seeds, on the test split. Passes: operations for "
        "a posterior, in passes of the plain network. Training: operations of a step, in steps of "
        "the classifier. Δ: against the matched classifier that is best in the metric, paired by "
        "seed. Scaled: by the temperature of the least NLL on the held-out examples. Bold: of the "
        "methods that may choose, the one that the held-out examples choose.\n"
    )


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
            compared.setdefault(row.method, {})[row.place] = row
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
            baseline = _best_classifier(rows, place, metric)
            if baseline is not None:
                values[first.index(place[:1]), others.index(place[1:])] = _gain(
                    row, baseline, metric
                )
        panels.append(figures.Panel(method, values))
    return figures.gains(panels, _labels(first, "row"), _labels(others, ""), metric.gain)


def _gain(row: Row, baseline: Row, metric: Metric) -> float:
    differences = _paired(row, baseline, metric)
    if not differences:
        return float("nan")
    mean = statistics.fmean(differences)
    if not metric.relative:
        return mean
    return -100 * mean / (metric.scale * statistics.fmean(baseline.over_seeds(metric.key)))


def _labels(places: Sequence[Place], default: str) -> tuple[str, list[str]]:
    names = ", ".join(name for name, _ in places[0]) or default
    return names, [", ".join(str(value) for _, value in place) for place in places]


def _points(records: Sequence[Record]) -> Mapping[str, Mapping[str, list[figures.Point]]]:
    """Every sampler of every method at every place."""
    groups: dict[str, dict[str, dict[int, list[Record]]]] = {}
    for record in records:
        values = record["values"]
        place = ", ".join(f"{k}={v}" for k, v in axes.coordinates(values).items())
        of_method = groups.setdefault(place, {}).setdefault(values.get(axes.METHOD, ""), {})
        for number, each in enumerate(record["samplers"]):
            of_method.setdefault(number, []).append(each)
    return {
        place: {
            method: [_point(seeds) for seeds in samplers.values()]
            for method, samplers in of_place.items()
        }
        for place, of_place in groups.items()
    }


def _point(seeds: Sequence[Record]) -> figures.Point:
    top1 = [100 * each["test"]["top1"] for each in seeds]
    error = statistics.stdev(top1) / len(top1) ** 0.5 if len(top1) > 1 else 0.0
    joined = seeds[0]["sampler"] == "cp" and seeds[0]["integrator"] == "euler"
    return figures.Point(seeds[0]["plain_passes"], statistics.fmean(top1), error, joined)
