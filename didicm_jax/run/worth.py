"""What a checkpoint is worth: its evaluated accuracy, which orbax chooses the best by.

It is kept in the checkpoint, beside the arrays, and written again when an evaluation comes later.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from didicm_jax import files

# Of one that was saved without an evaluation: less than any accuracy.
_NOT_EVALUATED = -1.0


def metrics(top1: float | None) -> dict[str, float]:
    """What orbax is to keep; None stands for no evaluation."""
    return {"top1": _NOT_EVALUATED if top1 is None else top1}


def rank(metrics: Mapping[str, float]) -> float:
    """By what the best is chosen."""
    return metrics["top1"]


def read(checkpoint: Path, say: Callable[[str], None]) -> float | None:
    """The accuracy that a checkpoint holds, None if none; `say` is told if it is damaged."""
    top1 = _read(checkpoint)
    if top1 is None:
        say(f"{_place(checkpoint)} is damaged: the checkpoint counts as not evaluated")
    return None if top1 == _NOT_EVALUATED else top1


def write(checkpoint: Path, top1: float | None) -> None:
    """Gives a checkpoint another worth."""
    files.write_json(_place(checkpoint), metrics(top1))


def mend(checkpoints: Path, say: Callable[[str], None]) -> None:
    """Replaces metrics that are cut: orbax would not open the folder, but the state is fine."""
    for checkpoint in checkpoints.glob("*"):
        if _place(checkpoint).exists() and _read(checkpoint) is None:
            read(checkpoint, say)
            write(checkpoint, None)


def _place(checkpoint: Path) -> Path:
    return checkpoint / "metrics" / "metrics"


def _read(checkpoint: Path) -> float | None:
    try:
        return float(rank(json.loads(_place(checkpoint).read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError):
        return None
