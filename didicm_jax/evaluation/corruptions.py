"""Accuracy on corrupted images, and the mean corruption error (mCE)."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from didicm_jax.data.corruptions import SEVERITIES, corrupted
from didicm_jax.evaluation import loop
from didicm_jax.evaluation.subject import Subject, check_comparable

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

    record: dict[str, Any]  # for `evaluation.json`
    names: Sequence[str]
    severities: Sequence[int]
    accuracies: dict[str, np.ndarray]  # of each run, f64[names, severities + 1], severity 0 first


def evaluate(
    subject: Subject,
    config: ml_collections.ConfigDict,
    baseline: Subject | None,
    names: Sequence[str],
    severities: Sequence[int],
    *,
    say: Callable[[str], None] = lambda line: None,
    waiting: loop.Waiting = contextlib.nullcontext,
) -> Found:
    """Evaluates a run, and a second one on the same corrupted images.

    Args:
      subject: the run.
      config: its config, with the sampler to use.
      baseline: the second run, with the sampler of its own config; None without.
      names: of the corruptions.
      severities: of `SEVERITIES`.
      say: gets a line for each corruption as it is done: all of them take long.
      waiting: surrounds each wait for other processes.

    Raises:
      UserError: the second run is of other classes or other images, or posteriors are not finite.
    """
    subjects = {"run": (subject, config)}
    if baseline is not None:
        check_comparable(subject, baseline)
        subjects["baseline"] = (baseline, baseline.network.config)
    metrics: dict[str, list[list[dict[str, float]]]] = {}
    for key, (each, its_config) in subjects.items():
        score = partial(each.evaluate, each.program(its_config), waiting=waiting)
        clean = score().metrics
        metrics[key] = []
        for name in names:
            # Of one seed for both, so that they see the same.
            shown_as = [corrupted(each.source, name, severity) for severity in severities]
            found = [score(source).metrics for source in shown_as]
            metrics[key].append([clean, *found])
            shown = " ".join(f"{100 * m['top1']:.1f}" for m in found)
            where = ", ".join(map(str, severities))
            say(f"{key} {name}: top-1 {shown} % at severities {where}")
    return Found(
        _record(metrics, names, severities, subject.dataset_name),
        names,
        severities,
        {
            key: np.array([[m["top1"] for m in row] for row in rows])
            for key, rows in metrics.items()
        },
    )


def mean_corruption_error(
    errors: Mapping[str, float], reference: Mapping[str, float]
) -> float | None:
    """The errors relative to those of another network, mean over the corruptions (mCE).

    Args:
      errors: of each corruption, the top-1 error as the mean over severities.
      reference: the same of the other network, for these corruptions at least.

    Returns:
      None where the other makes no error with one of them.
    """
    if not all(reference[name] for name in errors):
        return None
    return float(np.mean([errors[name] / reference[name] for name in errors]))


def _record(
    metrics: dict[str, list[list[dict[str, float]]]],
    names: Sequence[str],
    severities: Sequence[int],
    dataset: str,
) -> dict[str, Any]:
    errors = {
        key: {
            name: float(np.mean([1 - m["top1"] for m in row[1:]]))
            for name, row in zip(names, rows, strict=True)
        }
        for key, rows in metrics.items()
    }
    record: dict[str, Any] = {"severities": list(severities)}
    for key, rows in metrics.items():
        record[key] = {
            name: {metric: [m[metric] for m in row[1:]] for metric in ("top1", "nll", "ece")}
            for name, row in zip(names, rows, strict=True)
        }
        record[key]["mean_corruption_error"] = float(np.mean(list(errors[key].values())))
    references = {"baseline": errors["baseline"]} if "baseline" in errors else {}
    whole = set(names) == set(_ALEXNET) and tuple(severities) == SEVERITIES
    if whole and dataset.startswith("imagenet2012"):
        references["alexnet"] = _ALEXNET
    for other, reference in references.items():
        mce = mean_corruption_error(errors["run"], reference)
        if mce is not None:
            record[f"mce_relative_to_{other}"] = mce
    return record
