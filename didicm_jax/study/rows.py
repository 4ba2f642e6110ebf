"""The methods of a study, place by place: their reported samplers, and what each gains."""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from didicm_jax import evaluation
from didicm_jax.study import coordinates, methods
from didicm_jax.study.coordinates import Place
from didicm_jax.study.folder import Record


class Metric(NamedTuple):
    """How a metric is shown, and what counts as a gain in it."""

    key: str
    title: str
    scale: float
    digits: int
    gain: str  # name and unit
    relative: bool  # in per cent of the baseline, less being better


SHOWN = (
    Metric("top1", "top-1 %", 100, 2, "gain in top-1 (points)", False),
    Metric("nll", "NLL", 1, 3, "reduction of the NLL (%)", True),
    Metric("ece", "ECE", 1, 3, "reduction of the ECE (%)", True),
)
ALL = (
    *SHOWN,
    Metric("nll_scaled", "NLL, scaled", 1, 3, "reduction of the scaled NLL (%)", True),
    Metric("ece_scaled", "ECE, scaled", 1, 3, "reduction of the scaled ECE (%)", True),
)


class Baseline(NamedTuple):
    """Classifiers of which the best is what methods are compared with."""

    title: str
    word: str  # of its columns
    methods: tuple[str, ...]
    stopped: bool  # at the checkpoint that the held-out examples choose


UNMATCHED = Baseline("the paper's baseline", "paper's", methods.UNMATCHED, stopped=False)
MATCHED = Baseline("the matched classifier", "matched", methods.MATCHED, stopped=False)
STOPPED = Baseline("the matched, both stopped", "stopped", methods.MATCHED, stopped=True)


class Row(NamedTuple):
    """One method at one place: a record of its reported sampler for each seed."""

    place: Place
    method: str
    stopped: bool  # at the checkpoint that is the best on the held-out examples, not the last
    free: bool  # chosen on the held-out examples among all samplers of a method that reports one
    chosen: dict[int, Record]
    cells: dict[int, Record]

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.method}, stopped" if self.stopped else self.label

    @property
    def label(self) -> str:
        """For legends, whichever its checkpoint."""
        return f"{self.method}, chosen" if self.free else self.method

    def of(self, seeds: Collection[int] | None) -> "Row":
        """With these of its seeds alone; None: with all."""
        if seeds is None:
            return self
        chosen = {seed: record for seed, record in self.chosen.items() if seed in seeds}
        return self._replace(chosen=chosen)

    def over_seeds(self, key: str) -> list[float]:
        """A test metric of each seed, in order."""
        return [self.chosen[seed]["test"][key] for seed in sorted(self.chosen)]


class Difference(NamedTuple):
    """Of a method and a baseline, paired by seed and by test example."""

    value: float
    half: float | None  # of its interval of 95 %; None where one seed of an old record is all


def rows_of(records: Sequence[Record], following: Collection[str]) -> list[Row]:
    """The rows of the tables, in their order.

    What is stopped may choose its sampler too: nothing of it is as it was published.

    Args:
      records: of the cells that are done.
      following: axes that are no places of their own.
    """
    groups: dict[tuple[Place, str, bool], dict[int, Record]] = defaultdict(dict)
    for record in records:
        values = record["values"]
        found = coordinates.of(values)
        place = tuple((axis, value) for axis, value in found.items() if axis not in following)
        method, seed = values.get(coordinates.METHOD, ""), values.get(coordinates.SEED, 0)
        groups[place, method, False][seed] = record
        if "stopped" in record:
            groups[place, method, True][seed] = record | record["stopped"]
    rows = []
    for (place, method, stopped), cells in groups.items():
        limit = methods.find(method).passes if method else None
        reported = sampler_keys(cells)[0] if limit is None else _choose(cells, limit)
        best = _choose(cells, math.inf)
        kinds = [(False, reported)]
        if limit is None and len(sampler_keys(cells)) > 1:
            kinds = [(True, best)] if stopped else [*kinds, (True, best)]
        for free, key in kinds:
            chosen = {seed: find_sampler(record, key) for seed, record in cells.items()}
            rows.append(Row(place, method, stopped, free, chosen, cells))
    order = {place: i for i, place in enumerate(coordinates.in_order(row.place for row in rows))}
    names = ["", *methods.METHODS]

    def rank(row: Row) -> tuple[int, int, str, bool, bool]:
        name = row.method.removesuffix(methods.EQUAL_COMPUTE)
        return order[row.place], names.index(name), row.method, row.stopped, row.free

    return sorted(rows, key=rank)


def _key(sampler: Record) -> tuple[str, int]:
    """What a sampler is told apart by."""
    return sampler["label"], sampler["steps"]


def sampler_keys(cells: Mapping[int, Record]) -> list[tuple[str, int]]:
    """The samplers that all seeds were asked for: later versions may ask for more."""
    every = [[_key(each) for each in record["samplers"]] for record in cells.values()]
    return [key for key in every[0] if all(key in keys for keys in every)]


def find_sampler(record: Record, key: tuple[str, int]) -> Record:
    """What a cell's record says of one of its samplers."""
    return next(each for each in record["samplers"] if _key(each) == key)


def _choose(cells: Mapping[int, Record], limit: float) -> tuple[str, int]:
    """The sampler to report of those within so many passes: no test example has a say in it."""
    keys, first = sampler_keys(cells), next(iter(cells.values()))
    allowed = [key for key in keys if find_sampler(first, key)["plain_passes"] <= limit]
    return min(
        allowed or keys,
        key=lambda key: statistics.fmean(
            find_sampler(cell, key)["validation"]["nll"] for cell in cells.values()
        ),
    )


def select(rows: Sequence[Row]) -> dict[Place, Row]:
    """Of the methods that may choose, the one with the least NLL on the held-out examples."""
    found: dict[Place, Row] = {}
    for row in rows:
        if row.method and not row.stopped and methods.find(row.method).passes is not None:
            held = found.setdefault(row.place, row)
            found[row.place] = min(held, row, key=_held_out_nll)
    return found


def _held_out_nll(row: Row) -> float:
    return statistics.fmean(record["validation"]["nll"] for record in row.chosen.values())


def best_of(
    rows: Sequence[Row],
    place: Place,
    metric: Metric,
    baseline: Baseline,
    seeds: Collection[int] | None = None,
) -> Row | None:
    """Of a baseline's classifiers the one with the best mean on the test split: the hardest.

    Args:
      rows: of `rows_of`.
      place: of the classifiers.
      metric: in which.
      baseline: of them.
      seeds: those that are compared with it alone; None: all that each has.
    """
    found = [
        row.of(seeds)
        for row in rows
        if row.place == place and row.method in baseline.methods and row.stopped == baseline.stopped
    ]
    sign = 1 if metric.relative else -1
    return min(
        (row for row in found if row.chosen),
        key=lambda row: sign * statistics.fmean(row.over_seeds(metric.key)),
        default=None,
    )


def difference_of(row: Row, baseline: Row | None, metric: Metric) -> Difference | None:
    """In the unit of the table, over the seeds that both have; None where there is none."""
    pairs = _pairs(row, baseline)
    if not pairs:
        return None
    ours, theirs = _means(pairs, metric)
    half = _half_width(pairs, metric, 1.0)
    scaled = None if half is None else metric.scale * half
    return Difference(metric.scale * (ours - theirs), scaled)


def gain_of(row: Row, baseline: Row | None, metric: Metric) -> Difference | None:
    """More is better: points, or per cent of the baseline, of which 0 has none."""
    pairs = _pairs(row, baseline)
    if not metric.relative or not pairs:
        return difference_of(row, baseline, metric)
    ours, theirs = _means(pairs, metric)
    if theirs == 0:  # always right and certain
        return None
    # Of a ratio r = a / b of means the error is, to first order, that of a - r b, divided by b.
    half = _half_width(pairs, metric, ours / theirs)
    return Difference(100 * (1 - ours / theirs), None if half is None else 100 / theirs * half)


_Pairs = Sequence[tuple[Record, Record]]  # of each seed that two methods have


def _pairs(row: Row, baseline: Row | None) -> _Pairs:
    if baseline is None or row.name == baseline.name:
        return []
    seeds = sorted(row.chosen.keys() & baseline.chosen.keys())
    return [(row.chosen[seed], baseline.chosen[seed]) for seed in seeds]


def _means(pairs: _Pairs, metric: Metric) -> tuple[float, ...]:
    """Of both sides, over the seeds."""
    sides = zip(*pairs, strict=True)
    return tuple(statistics.fmean(each["test"][metric.key] for each in side) for side in sides)


def _half_width(pairs: _Pairs, metric: Metric, share: float) -> float | None:
    """Of the interval of 95 % of the mean of `ours - share * theirs`: Student's.

    Seeds and test examples each have a variance, of degrees of freedom that Welch and Satterthwaite
    add. None where one seed of an old record is all.
    """
    key = metric.key
    values = [ours["test"][key] - share * theirs["test"][key] for ours, theirs in pairs]
    variances = []
    if len(values) > 1:
        variance = statistics.variance(values) / len(values)
        variances.append(evaluation.Variance(variance, len(values) - 1))
    kept = [[np.array(each.get("left_out", {}).get(key, ())) for each in pair] for pair in pairs]
    if all(ours.shape == theirs.shape and ours.ndim == 2 for ours, theirs in kept):
        # All seeds are judged on the same test examples.
        gaps = np.mean([ours - share * theirs for ours, theirs in kept], axis=0)
        variances.append(evaluation.jackknife(gaps))
    if not variances:
        return None
    total = sum(each.value for each in variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(each.value**2 / each.freedom for each in variances)
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(total)


def baselines_of(rows: Sequence[Row]) -> tuple[Baseline, ...]:
    """What methods are compared with."""
    stopped = any(row.stopped for row in rows)
    return (UNMATCHED, MATCHED, STOPPED) if stopped else (UNMATCHED, MATCHED)


def mean_of(values: Sequence[float]) -> tuple[float, float]:
    """Over seeds, and its standard error, 0 where there is but one."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.fmean(values), error
