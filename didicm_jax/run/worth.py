"""What a checkpoint is worth by its evaluation, which orbax chooses the best by: more is better.

It is kept in the checkpoint, beside the arrays, and written again when an evaluation comes later.
"""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from didicm_jax import files
from didicm_jax.run import records

_NOT_EVALUATED = -math.inf  # the rank of one that was saved without an evaluation


def of(metrics: Mapping[str, float], best: str) -> float:
    """The worth that an evaluation found, by `config.evaluation.best`."""
    return -metrics["nll"] if best == "nll" else metrics["top1"]


def metrics(worth: float | None) -> dict[str, float | None]:
    """What orbax is to keep; None stands for no evaluation."""
    return {"worth": worth}


def rank(metrics: Mapping[str, Any]) -> float:
    """By what the best is chosen."""
    if "worth" not in metrics:  # of a former version, which knew accuracy alone, and -1 for none
        return metrics["top1"] if metrics["top1"] >= 0 else _NOT_EVALUATED
    return _NOT_EVALUATED if metrics["worth"] is None else metrics["worth"]


def read(checkpoint: Path, say: Callable[[str], None]) -> float | None:
    """What a checkpoint says it is worth, None if nothing; `say` is told if it is damaged."""
    worth = _read(checkpoint)
    if worth is None:
        say(f"{_place(checkpoint)} is damaged: the checkpoint counts as not evaluated")
    return None if worth == _NOT_EVALUATED else worth


def write(checkpoint: Path, worth: float | None) -> None:
    """Gives a checkpoint another worth."""
    _place(checkpoint).parent.mkdir(parents=True, exist_ok=True)  # it may have been lost
    files.write_json(_place(checkpoint), metrics(worth))


def recorded(metrics_file: Path, name: str, best: str) -> dict[str, float]:
    """What checkpoints are worth by the records of a run, by the names of their folders.

    Args:
      metrics_file: of the run, if there is one.
      name: of the set that decides which is best.
      best: `config.evaluation.best`.
    """
    if not metrics_file.exists():
        return {}
    found = records.evaluations(records.read(metrics_file).records).get(name, [])
    numbers = [each for each in found if each.get(best) is not None]
    return {f"{each['step']:.0f}": of(each, best) for each in numbers}


def mend(checkpoints: Path, known: Mapping[str, float], say: Callable[[str], None]) -> None:
    """Writes what checkpoints are worth where that is cut, or has never been written.

    Orbax would not open a folder in which it is cut, but the state is fine. Where a disk had room
    for the record of an evaluation and none for this, no later save may have come to write it.

    Args:
      checkpoints: the folder of all.
      known: from `recorded`; others that are cut count as not evaluated.
      say: told of these.
    """
    for checkpoint in checkpoints.glob("*"):
        if not _place(checkpoint).exists():
            continue
        found, value = _read(checkpoint), known.get(checkpoint.name)
        if found is None:
            if value is None:
                read(checkpoint, say)
            write(checkpoint, value)
        elif found == _NOT_EVALUATED and value is not None:
            with contextlib.suppress(OSError):  # the disk is still full; the next start tries again
                write(checkpoint, value)


def _place(checkpoint: Path) -> Path:
    return checkpoint / "metrics" / "metrics"


def _read(checkpoint: Path) -> float | None:
    try:
        return float(rank(json.loads(_place(checkpoint).read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
