"""What a study found as text: a CSV file, and tables of means over seeds and of differences."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from didicm_jax.study import methods
from didicm_jax.study.folder import Record
from didicm_jax.study.rows import (
    ALL,
    STOPPED,
    Difference,
    Row,
    baselines_of,
    best_of,
    difference_of,
    find_sampler,
    mean_of,
    sampler_keys,
    select,
)

# In the CSV file, for both splits.
_METRICS = ("top1", "top5", "nll", "ece", "ece_equal_mass", "brier", "entropy")
_SCALED = ("nll_scaled", "ece_scaled")


def markdown(rows: Sequence[Row]) -> str:
    """Means over seeds, and differences to the baselines: `results.md`."""
    baselines = baselines_of(rows)
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
            " Stopped: by the checkpoint that the held-out examples choose, with the sampler of "
            "the config, and by the sampler that they choose then."
            if STOPPED in baselines
            else ""
        )
        + "\n\n"
        + _table(gaps, [*names, "method", *headers])
        + "\nDifferences with intervals of 95 %, paired by seed and test example, against the "
        "classifier that is best in the metric on the test split, of those that are done there, "
        f"among the paper's baselines ({', '.join(methods.UNMATCHED)}) and among the matched ones "
        f"({', '.join(methods.MATCHED)}). An interval covers the choice of the test examples "
        "(jackknife) and, where there are several, that of the seeds (Student's); where there is "
        "one, what another would give is not in it.\n"
    )


def samplers(rows: Sequence[Row]) -> str:
    """Every sampler of every method: `samplers.md`."""
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


def csv(records: Sequence[Record]) -> list[list[Any]]:
    """A line for each sampler of each checkpoint of each cell, after one of names."""
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


def _with_error(values: Sequence[float], digits: int) -> str:
    mean, error = mean_of(values)
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if len(values) > 1 else "")


def _interval(difference: Difference | None, digits: int) -> str:
    if difference is None:
        return ""
    end = "" if difference.half is None else f" ± {difference.half:.{digits}f}"
    return f"{difference.value:+.{digits}f}{end}"
