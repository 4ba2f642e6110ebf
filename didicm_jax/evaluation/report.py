"""The story of training runs: their curves as one picture, and one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from didicm_jax import config as configuration
from didicm_jax import files, pages, plots
from didicm_jax.errors import UserError
from didicm_jax.plots import training
from didicm_jax.run import Places, read_config
from didicm_jax.run import records as recorded

# Of evaluations: title, key, whether more is better, and how it is written.
_COLUMNS = (
    ("top-1", "top1", True, "{:.2%}"),
    ("top-5", "top5", True, "{:.2%}"),
    ("NLL", "nll", False, "{:.4f}"),
    ("ECE", "ece", False, "{:.4f}"),
    ("Brier", "brier", False, "{:.4f}"),
)
_CURVES = (
    "Curves over the steps of training: loss, learning rate, images per second, top-1 accuracy, "
    "negative log-likelihood, expected calibration error; the figures are in the tables below."
)


# By name of the run and of the set, the evaluations that `records.evaluations` finds.
Evaluations = Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]


def write(workdirs: Sequence[Path], folder: Path) -> list[Path]:
    """Writes `report.png` and `report.html` about runs.

    Args:
      workdirs: of the runs, none twice.
      folder: where to; made if it is not there.

    Returns:
      The two paths.

    Raises:
      UserError: one of the runs has no records, or is named twice.
    """
    names = _names(workdirs)
    runs = {name: read(path) for name, path in zip(names, workdirs, strict=True)}
    configs = {
        name: read_config(Places(path).config_file)
        for name, path in zip(names, workdirs, strict=True)
    }
    folder.mkdir(parents=True, exist_ok=True)
    picture, page = folder / "report.png", folder / "report.html"
    evaluations = {name: recorded.evaluations(records) for name, records in runs.items()}
    plots.save(training.curves(runs, evaluations), picture)
    tables = _evaluations(evaluations, configs) | {
        "Runs": _steps(runs),
        "Settings that differ" if len(runs) > 1 else "Settings": _settings(configs),
    }
    pages.write(
        page,
        "report.html",
        title="Training of " + ", ".join(runs),
        curves=pages.figure(picture, _CURVES),
        tables={name: pages.Table(name, head, rows) for name, (head, *rows) in tables.items()},
    )
    return [picture, page]


def read(workdir: Path) -> list[dict[str, Any]]:
    """The records of a run's `metrics.jsonl`, without a last line that was cut.

    Raises:
      UserError: there are none.
    """
    path = Places(workdir).metrics_file
    try:
        records = recorded.read(path).records
    except OSError as error:
        raise UserError(
            f"expected a run with {path.name} in {workdir}, found none ({error.strerror}); train "
            "it first",
            about="run folder",
        ) from error
    if not records:
        raise UserError(f"{path}: expected records of training, found none; train the run first")
    return records


def _names(workdirs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart.

    Raises:
      UserError: two are the same.
    """
    paths = [files.resolved(path) for path in workdirs]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UserError(
            f"expected different runs, found {twice} twice; name each once", about="run folder"
        )
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths differ somewhere")


def _evaluations(
    evaluations: Evaluations, configs: Mapping[str, Any]
) -> dict[str, list[list[str]]]:
    """By its heading a table for each set: the last value of each metric, the best with its step.

    First the sets that decide what is best, as the configs have them.
    """
    columns = [f"{title}{end}" for title, *_ in _COLUMNS for end in ("", ", best")]
    named = [
        each.name for config in configs.values() for each in configuration.evaluation_sets(config)
    ]
    found = [name for sets in evaluations.values() for name in sets]
    tables = {}
    for of_set in dict.fromkeys(name for name in [*named, *found] if name in found or not found):
        rows = [["run", "step", *columns]]
        for name, sets in evaluations.items():
            if of_set in sets:
                rows.append([name, *_last_and_best(sets[of_set])])
            elif not sets:
                rows.append([name, "not evaluated yet", *[""] * len(columns)])
        tables[f"Evaluations on {of_set}" if of_set else "Evaluations"] = rows
    return tables


def _last_and_best(evaluated: Sequence[dict[str, Any]]) -> list[str]:
    row = [f"{evaluated[-1]['step']:,}"]
    for _, key, more, form in _COLUMNS:
        sign = -1 if more else 1
        finite = [record for record in evaluated if record[key] is not None]
        last = evaluated[-1][key]
        row.append("not finite" if last is None else form.format(last))
        best = min(finite, key=lambda r: (sign * r[key], r["step"]), default=None)
        row.append("" if best is None else f"{form.format(best[key])} at {best['step']:,}")
    return row


def _steps(runs: Mapping[str, Sequence[dict[str, Any]]]) -> list[list[str]]:
    header = ["run", "last step", "last loss", "median images/s", "losses not finite", "skipped"]
    rows = [header]
    for name, records in runs.items():
        steps, losses = training.series(records, "loss")
        _, rates = training.series(records, "images_per_second")
        good = losses[losses == losses]
        rows.append(
            [
                name,
                f"{steps[-1]:,}" if len(steps) else "",
                f"{good[-1]:.4f}" if len(good) else "",
                f"{sorted(rates)[len(rates) // 2]:,.0f}" if len(rates) else "",
                f"{len(losses) - len(good):,}",
                f"{max((r.get('skipped_steps', 0) for r in records), default=0):,} steps",
            ]
        )
    return rows


def _settings(configs: Mapping[str, Any]) -> list[list[str]]:
    """Of one run, what is not at its default; of several, what differs between them."""
    flat = {name: configuration.flatten(config) for name, config in configs.items()}
    if len(flat) == 1:
        columns = {"default": configuration.flatten(configuration.default())} | flat
    else:
        columns = flat
    keys = list(next(iter(flat.values())))
    rows = [["setting", *columns]]
    rows += [
        [key, *(str(values.get(key)) for values in columns.values())]
        for key in keys
        if len({str(values.get(key)) for values in columns.values()}) > 1
    ]
    return rows
