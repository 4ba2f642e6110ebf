"""Accuracy on corrupted images, for `--mode=evaluate --corruptions`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from tabulate import tabulate

from didicm_jax import evaluation
from didicm_jax.cli.subject import Subject, is_main
from didicm_jax.evaluation.loop import Predictions

# Top-1 errors of AlexNet, mean over severities, by which ImageNet-C's mCE is normalised
# (Hendrycks and Dietterich 2019, arXiv 1903.12261; the values are of its authors' repository).
_ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


class Found(NamedTuple):
    """What corruptions do."""

    record: dict[str, Any]
    # For each run: accuracy f64[corruptions, severities + 1], severity 0 first.
    accuracies: dict[str, tuple[Sequence[str], Sequence[int], np.ndarray]]


def evaluate(
    subject: Subject,
    config: ml_collections.ConfigDict,
    baseline: Subject | None,
    names: Sequence[str],
    severities: Sequence[int],
    proceed: Callable[[], bool],
) -> Found | None:
    """Evaluates a run, and a second one on the same corrupted images; None without any.

    Prints a line for each corruption as it is done: all of them take long.
    """
    if not names:
        return None
    from didicm_jax.data.corruptions import corrupted

    subjects = {"run": (subject, config)}
    if baseline is not None:
        subjects["baseline"] = (baseline, baseline.network.config)
    metrics: dict[str, list[list[dict[str, float]]]] = {}
    for key, (each, its_config) in subjects.items():
        ask = each.ask(its_config, proceed)
        clean = _summary(ask(each.source))
        metrics[key] = []
        for name in names:
            row = [clean]
            for severity in severities:
                # Of one seed for both, so that they see the same.
                source = corrupted(each.source, name, severity, seed=0)
                row.append(_summary(ask(source)))
            metrics[key].append(row)
            if is_main():
                shown = " ".join(f"{100 * m['top1']:.1f}" for m in row[1:])
                where = ", ".join(map(str, severities))
                print(f"{key} {name}: top-1 {shown} % at severities {where}", flush=True)
    top1 = {
        key: np.array([[m["top1"] for m in row] for row in rows]) for key, rows in metrics.items()
    }
    labels = {key: (names, severities, value) for key, value in top1.items()}
    record = _record(metrics, names, severities, subject)
    if is_main():
        print(_table(record))
    return Found(record, labels)


def _summary(found: Predictions) -> dict[str, float]:
    return evaluation.summarize(evaluation.outcomes(found.answer.probs, found.labels))


def _record(
    metrics: dict[str, list[list[dict[str, float]]]],
    names: Sequence[str],
    severities: Sequence[int],
    subject: Subject,
) -> dict[str, Any]:
    errors = {
        key: np.array([[1 - m["top1"] for m in row[1:]] for row in rows]).mean(axis=1)
        for key, rows in metrics.items()
    }
    record: dict[str, Any] = {"severities": list(severities)}
    for key, rows in metrics.items():
        record[key] = {
            name: {metric: [m[metric] for m in row[1:]] for metric in ("top1", "nll", "ece")}
            for name, row in zip(names, rows, strict=True)
        }
        record[key]["mean_corruption_error"] = float(errors[key].mean())
    if "baseline" in errors:
        # As in ImageNet-C, with the second run in the place of AlexNet.
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = errors["run"] / errors["baseline"]
        if np.all(np.isfinite(ratios)):
            record["mce_relative_to_baseline"] = float(ratios.mean())
    whole = set(names) == set(_ALEXNET) and list(severities) == [1, 2, 3, 4, 5]
    if whole and subject.dataset_name.startswith("imagenet2012"):
        ratios = errors["run"] / [_ALEXNET[name] for name in names]
        record["mce_relative_to_alexnet"] = float(ratios.mean())
    return record


def _table(record: dict[str, Any]) -> str:
    runs = [key for key in ("run", "baseline") if key in record]
    names = [name for name in record["run"] if name != "mean_corruption_error"]
    rows = [
        [name, *(f"{100 * (1 - np.mean(record[key][name]['top1'])):.1f}" for key in runs)]
        for name in names
    ]
    rows.append(["mean", *(f"{100 * record[key]['mean_corruption_error']:.1f}" for key in runs)])
    headers = ["error %, mean of severities", *runs]
    text = f"\n{tabulate(rows, headers, disable_numparse=True)}"
    for other in ("baseline", "alexnet"):
        key = f"mce_relative_to_{other}"
        if key in record:
            text += f"\nmCE relative to {other}: {100 * record[key]:.1f} %"
    return text + "\n"
