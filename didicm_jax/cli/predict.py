"""`--mode=predict`: a user's own images, their posteriors, and how they came about."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from didicm_jax import files, plots
from didicm_jax.cli import pictures
from didicm_jax.inference.predictor import Prediction, Predictor
from didicm_jax.plots import prediction as figures

_CLASSES_LISTED = 5
_ROWS_PRINTED = 30


def run(
    predictor: Predictor, paths: Sequence[Path], output: Path, *, gif: bool, max_figures: int
) -> None:
    """Predicts images, writes tables and figures, and prints the first rows.

    Args:
      predictor: with trajectories, where its sampler has them.
      paths: the files.
      output: the folder for what is written.
      gif: also an animation of each figure.
      max_figures: at most so many.

    Raises:
      UserError: none of the files is an image.
    """
    names = predictor.class_names
    output.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    drawn = 0
    for usable, shown, answer in pictures.chunks(predictor, paths):
        for row, path in enumerate(usable):
            record = _record(path, answer, row, names)
            records.append(record)
            if drawn < max_figures:
                drawn += 1
                way = None if answer.trajectory is None else answer.trajectory[row]
                story = figures.Story(path.name, shown[row], names, answer.probs[row], way)
                stem = output / f"{len(records):04d}-{path.stem}"
                plots.save(figures.refinement(story), stem.with_name(stem.name + ".png"))
                if gif:
                    figures.animate(story, stem.with_name(stem.name + ".gif"))
    pictures.check_any(len(records), paths)
    header = ["file", "class", *names]
    rows = [
        [record["file"], record["class"], *record.pop("posterior").tolist()] for record in records
    ]
    files.write_csv(output / "predictions.csv", [header, *rows])
    files.write_json(output / "predictions.json", records)
    _print(records)
    rest = f" (the first {drawn} of {len(records)}: --max_figures)" if drawn < len(records) else ""
    print(f"\nwrote predictions.csv, predictions.json and {drawn} figures{rest} in {output}")


def _record(path: Path, answer: Prediction, row: int, names: Sequence[str]) -> dict[str, Any]:
    probs = answer.probs[row]
    top = np.argsort(-probs, kind="stable")[:_CLASSES_LISTED]
    record: dict[str, Any] = {
        "file": str(path),
        "class": answer.classes[row],
        "probability": float(probs[answer.labels[row]]),
        "top": [{"class": names[k], "probability": float(probs[k])} for k in top],
        "posterior": probs,
    }
    if answer.steps_used is not None:
        record["steps_used"] = int(answer.steps_used[row])
    return record


def _print(records: Sequence[dict[str, Any]]) -> None:
    rows = [
        [
            record["file"],
            record["class"],
            f"{100 * record['probability']:.1f}",
            ", ".join(
                f"{each['class']} {100 * each['probability']:.1f}" for each in record["top"][1:3]
            ),
        ]
        for record in records[:_ROWS_PRINTED]
    ]
    headers = ["file", "class", "probability %", "then"]
    print(tabulate(rows, headers, disable_numparse=True))
    if len(records) > _ROWS_PRINTED:
        print(f"... and {len(records) - _ROWS_PRINTED:,} more in predictions.csv")
