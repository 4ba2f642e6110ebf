"""The records of a run: what `metrics.jsonl` holds, and which steps have evaluations."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from didicm_jax import files

# Before the key of every number of an evaluation; behind it the name of the set, if it has one.
EVALUATION = "eval/"


class Records(NamedTuple):
    """What a `metrics.jsonl` holds."""

    records: list[dict[str, Any]]  # each with a number `step`
    lines: list[bytes]  # of the records, as they stand in the file
    unreadable: list[int]  # lines that are no record, counted from 1
    cut: bool  # the last line has no end, as a kill leaves it


def read(path: Path) -> Records:
    """Reads the records of training and evaluation.

    Raises:
      OSError: the file is not there or cannot be read.
    """
    # By line feeds alone: a byte that is no text is one line's fault.
    *lines, rest = path.read_bytes().split(b"\n")
    found = Records([], [], [], cut=rest != b"")
    for number, line in enumerate([*lines, rest], 1):
        record = _record(line)
        if record is not None:
            found.records.append(record)
            found.lines.append(line + b"\n")
        elif number <= len(lines):
            found.unreadable.append(number)
    return found


def evaluation(metrics: Mapping[str, float], name: str = "") -> dict[str, float]:
    """The record of an evaluation of the set `name`; "" is the only one of a run."""
    return {f"{_prefix(name)}{key}": value for key, value in metrics.items()}


def evaluations(records: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The evaluations among records, as `evaluation` made them, by the name of the set.

    Each has its `step` and the metrics by their own names.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        first = next((key for key in record if key.startswith(EVALUATION)), EVALUATION)
        name = first.removeprefix(EVALUATION).rpartition("/")[0]
        prefix = _prefix(name)
        if f"{prefix}top1" in record:
            metrics = {k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)}
            found.setdefault(name, []).append({"step": record["step"]} | metrics)
    return found


def _prefix(name: str) -> str:
    return f"{EVALUATION}{name}/" if name else EVALUATION


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line holds, if it can be read."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "step" not in record:
        return None
    # A bool is an int to Python; None stands for a number that was not finite.
    values = [record["step"], *(value for value in record.values() if value is not None)]
    numbers = all(type(value) in (int, float) for value in values)
    return record if numbers and math.isfinite(record["step"]) else None


def drop_after(path: Path, step: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Removes the records of steps after `step`, and what is none; returns those that stay.

    Args:
      path: the file, if there is one.
      step: the last to keep.
      say: told of lines that cannot be read.
    """
    if not path.exists():
        return []
    found = read(path)
    if found.unreadable:
        places = ", ".join(map(str, found.unreadable[:5]))
        more = len(found.unreadable) - 5
        say(
            f"{path}: dropped what cannot be read: line {places}"
            f"{f' and {more} more' if more > 0 else ''}"
        )
    pairs = zip(found.records, found.lines, strict=True)
    kept = [(record, line) for record, line in pairs if record["step"] <= step]
    if len(kept) < len(found.lines) or found.unreadable or found.cut:
        files.write_bytes(path, b"".join(line for _, line in kept))
    return [record for record, _ in kept]
