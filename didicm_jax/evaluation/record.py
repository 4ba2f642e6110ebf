"""`evaluation.json`: one record of an evaluation, written at the end of training and by
`--mode=evaluate` alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from didicm_jax import files
from didicm_jax.evaluation import classes, metrics, real_labels
from didicm_jax.evaluation.loop import Evaluation
from didicm_jax.evaluation.scores import Scores
from didicm_jax.inference import sweep
from didicm_jax.run import Places

# Coverages at which the selective accuracy is given as a number.
_COVERAGES = (0.5, 0.8, 0.9)
_LISTED = 5  # classes, and pairs of them


def of_sampler(
    config: ml_collections.ConfigDict,
    scores: Scores,
    real: Sequence[frozenset[int]] | None = None,
) -> dict[str, Any]:
    """What one sampler reached.

    Args:
      config: of the run, with this sampler.
      scores: on all examples.
      real: from `real_labels.read`; None without.

    Returns:
      The metrics of `metrics.summarize`, `sampler` and the settings that it reads, `intervals`
      (95 %), `selective_accuracy` at some coverages, `mean_steps_used` of samplers that may stop
      early, and `top1_real` and `num_examples_real` with ReaL labels.
    """
    results = scores.outcomes
    curve = metrics.selective(results)
    total = len(scores.labels)
    record: dict[str, Any] = metrics.summarize(results) | sweep.describe(config)
    record["intervals"] = {key: list(ends) for key, ends in metrics.intervals(results).items()}
    record["selective_accuracy"] = {
        str(share): float(curve.accuracy[max(1, round(share * total)) - 1]) for share in _COVERAGES
    }
    if scores.steps_used is not None:
        record["mean_steps_used"] = float(np.mean(scores.steps_used))
    if real is not None:
        record |= real_labels.accuracy(scores.predicted, real)
    return record


def of(
    samplers: Sequence[dict[str, Any]],
    last: Evaluation,
    *,
    step: int,
    dataset: str,
    class_names: tuple[str, ...],
    best_temperature: dict[str, float] | None = None,
    corruptions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole record: the last of `samplers`, from `of_sampler`, and what is said of it alone.

    That is all of `samplers`, `step` of the checkpoint, `dataset`, `replaced_images`, `classes` (
    best, worst and most confused), and, if any, `best_temperature` of `temperature.best` and
    `corruptions` of `corruptions.evaluate`.
    """
    record = samplers[-1] | {
        "step": step,
        "dataset": dataset,
        "replaced_images": last.replaced,
        "samplers": list(samplers),
        "classes": classes.summary(last.scores, class_names, top=_LISTED),
    }
    further = {"best_temperature": best_temperature, "corruptions": corruptions}
    return record | {key: value for key, value in further.items() if value is not None}


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes `evaluation.json` into a folder that exists."""
    files.write_json(Places(folder).evaluation_file, record)
