"""What a run tells: the console, `metrics.jsonl`, TensorBoard."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import tensorboardX
from tqdm import tqdm

from didicm_jax.errors import UserError


class Reporter:
    """Reports one training run: one live line on a terminal, plain lines elsewhere."""

    def __init__(self, workdir: Path, step: int, total_steps: int) -> None:
        """Opens the reports of a run that stands at `step` of `total_steps`.

        Records of later steps, left by a run that went on past its last checkpoint, are dropped:
        their steps will be run and logged again.
        """
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, step)
        self._file = self._path.open("a")
        self._board = tensorboardX.SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )
        self._total = total_steps
        self._first: tuple[int, float] | None = None  # step and time of the first report
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=step,
                dynamic_ncols=True,
                bar_format="step {n_fmt}/{total_fmt} |{bar}| {desc}{remaining} left",
            )

    def say(self, text: str) -> None:
        """Prints a line, above the live one."""
        tqdm.write(text)
        sys.stdout.flush()

    def train(self, step: int, record: dict[str, float]) -> None:
        """Logs one training step: `loss` and `images_per_second` are also shown."""
        self._write(step, record)
        shown = f"loss {record['loss']:.4f}, {record['images_per_second']:,.0f} images/s"
        if self._bar is not None:
            self._bar.set_description_str(f"{shown}, ", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        self.say(f"step {step}/{self._total}: {shown}{self._time_left(step)}")

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Logs and shows an evaluation, under `eval/…` keys."""
        self._write(step, {f"eval/{key}": value for key, value in metrics.items()})
        self.say(f"step {step}/{self._total}: {summary(metrics)}")

    def close(self) -> None:
        """Writes out what is buffered and ends the live line."""
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        self._board.close()

    def _time_left(self, step: int) -> str:
        """Judged by the pace since the first report: compilation is before it."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
            return ""
        pace = (now - self._first[1]) / (step - self._first[0])
        return f", {tqdm.format_interval(pace * (self._total - step))} left"

    def _write(self, step: int, record: dict[str, float]) -> None:
        # A line at a time and flushed, so that a kill leaves at most the last line cut.
        # NaN and infinity are no JSON: a loss that is not finite is written as null.
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps({"step": step} | finite) + "\n")
        self._file.flush()
        for key, value in record.items():
            tag = key if "/" in key else f"train/{key}"
            self._board.add_scalar(tag, value, step)


def summary(metrics: dict[str, float]) -> str:
    """The metrics of an evaluation on one line."""
    return (
        f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}, NLL {metrics['nll']:.4f}, "
        f"ECE {metrics['ece']:.4f}, Brier {metrics['brier']:.4f} "
        f"on {metrics['num_examples']:,} images"
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      UserError: it is not there or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path}: expected a JSON file, found {error}; restore it or choose another workdir"
        ) from error


def _step_of(line: str) -> float:
    """The step of a record; infinity where a kill has cut the line."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, TypeError, KeyError):
        return math.inf


def _drop_after(path: Path, step: int) -> None:
    """Removes records of steps after `step`, and a last line that was cut."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if _step_of(line) <= step]
    if kept != lines:
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(kept))
        os.replace(partial, path)
