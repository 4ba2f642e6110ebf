"""`evaluation.json`: one record of an evaluation, written at the end of training and by
`--mode=evaluate` alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from didicm_jax import config as configuration
from didicm_jax import data, files
from didicm_jax.evaluation import classes, metrics, real_labels, resampling
from didicm_jax.evaluation.loop import Evaluation
from didicm_jax.evaluation.scores import Scores
from didicm_jax.evaluation.subject import OtherData
from didicm_jax.inference import sweep
from didicm_jax.run import Places

# Coverages at which the selective accuracy is given as a number.
_COVERAGES = (0.5, 0.8, 0.9)
_LISTED = 5  # classes, and pairs of them


def images_of(
    config: ml_collections.ConfigDict,
    other: OtherData = OtherData(),  # noqa: B008 (a tuple)
) -> dict[str, Any]:
    """Which images a run is evaluated on, for its record.

    Args:
      config: of the run.
      other: what it is evaluated on instead of its own test examples.

    Returns:
      `dataset`; `split`, where "" stands for the set's own, validation, or test where there is
      none; and `examples`, how many were asked for, if not all.
    """
    name, split = other.dataset or config.data.name, other.split
    if split is None:
        split = "" if other.dataset else configuration.evaluation_sets(config)[0].split
    if not split and data.shows_whole(name):
        split = "test"  # all that such a set has to evaluate on
    asked = {} if other.examples is None else {"examples": other.examples}
    return {"dataset": name, "split": split} | asked


def part(record: Mapping[str, Any], quote: str = "") -> str:
    """Which part of its data set an evaluation is of, in words that stand behind the set's name.

    Args:
      record: of the evaluation; where an older one does not know, nothing is said.
      quote: put around the name of the split.
    """
    split, examples = record.get("split"), record.get("examples")
    words = f", part {quote}{split}{quote}" if split else ""
    return words + (f", of which {examples:,} were asked for" if examples else "")


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
      The metrics of `metrics.summarize`, `sampler` and the settings that it reads, `label`, which
      tells it apart from others with as many steps, `intervals` (95 %), `selective_accuracy` at
      some coverages, `mean_steps_used` of samplers that may stop early, and `top1_real` and
      `num_examples_real` with ReaL labels.
    """
    results = scores.outcomes
    curve = metrics.selective(results)
    total = len(scores.labels)
    record: dict[str, Any] = metrics.summarize(results) | sweep.describe(config)
    record["label"] = sweep.label(config)
    record["intervals"] = {key: list(ends) for key, ends in resampling.intervals(results).items()}
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
    images: Mapping[str, Any],
    class_names: tuple[str, ...],
    best_temperature: dict[str, float] | None = None,
    corruptions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole record: the last of `samplers`, from `of_sampler`, and what is said of it alone.

    That is all of `samplers`, `step` of the checkpoint, `images`, from `images_of`,
    `replaced_images`, `classes` (best, worst and most confused), and, if any, `best_temperature`
    of `temperature.best` and `corruptions` of `corruptions.evaluate`.
    """
    record = samplers[-1] | {
        "step": step,
        **images,
        "replaced_images": int(last.replaced.sum()),
        "samplers": list(samplers),
        "classes": classes.summary(last.scores, class_names, top=_LISTED),
    }
    further = {"best_temperature": best_temperature, "corruptions": corruptions}
    return record | {key: value for key, value in further.items() if value is not None}


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes `evaluation.json` into a folder that exists."""
    files.write_json(Places(folder).evaluation_file, record)
