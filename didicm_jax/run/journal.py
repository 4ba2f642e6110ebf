"""What a run tells: the console, `metrics.jsonl`, TensorBoard, Weights & Biases."""

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from didicm_jax.errors import UserError
from didicm_jax.run import records
from didicm_jax.run.logs import Events, Lines, Log, tagged
from didicm_jax.run.places import Places
from didicm_jax.run.tracker import Tracker


class Reporter:
    """Reports one training run: one live line on a terminal, plain lines elsewhere.

    A disk that is full or gone does not stop the run: what could not be written is kept, and
    written as soon as that is possible again.
    """

    def __init__(
        self,
        workdir: Path,
        step: int,
        total_steps: int,
        *,
        silent: bool = False,
        tracked: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens the reports of a run that stands at `step` of `total_steps`.

        Records of later steps, left by a run that went on past its last checkpoint, are dropped:
        their steps will be run and logged again.

        Args:
          workdir: of the run.
          step: the steps done.
          total_steps: of the run.
          silent: say and write nothing, for all processes but one.
          tracked: report to Weights & Biases too, with this config; None: do not.

        Raises:
          UserError: Weights & Biases cannot begin.
        """
        self._silent = silent
        self._total = total_steps
        self._first: tuple[int, float] | None = None  # step and time of the first report
        self._bar: tqdm | None = None
        self._evaluated: dict[str, set[float]] = {}  # steps, by the name of the set
        self._logs: list[Log] = []
        self._unwritten = ""  # why the last records could not be written
        self._tracker: Tracker | None = None
        if silent:
            return
        places = Places(workdir)
        if tracked is not None:
            self._tracker = Tracker(places, tracked, self.say)
        kept = records.drop_after(places.metrics_file, step, self.say)
        self._evaluated = {
            name: {each["step"] for each in found}
            for name, found in records.evaluations(kept).items()
        }
        self._logs = [Lines(places.metrics_file), Events(places.tensorboard, step)]
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total_steps,
                initial=step,
                dynamic_ncols=True,
                bar_format="step {n_fmt}/{total_fmt} |{bar}| {desc}{remaining} left",
            )

    def say(self, text: str) -> None:
        """Prints a line, above the live one."""
        if self._silent:
            return
        # The console may be a file on a disk that is full: no reason to end the run.
        with contextlib.suppress(OSError):
            tqdm.write(text)
            sys.stdout.flush()

    def train(self, step: int, record: dict[str, float]) -> None:
        """Logs one training step.

        Of the record `loss` and `images_per_second` are also shown, and where they are there `mfu`
        and `peak_memory_bytes`.
        """
        self._write(step, record)
        shown = f"loss {record['loss']:.4f}, {record['images_per_second']:,.0f} images/s"
        if "mfu" in record:
            shown += f", MFU {record['mfu']:.1%}"
        if "peak_memory_bytes" in record:
            shown += f", {record['peak_memory_bytes'] / 2**30:.1f} GiB"
        if self._bar is not None:
            self._bar.set_description_str(f"{shown}, ", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        self.say(f"step {step}/{self._total}: {shown}{self._time_left(step)}")

    def evaluation(self, step: int, metrics: dict[str, float], name: str = "") -> None:
        """Logs and shows an evaluation of the set `name`, under `eval/NAME/…` keys.

        "" is the name of the only one of a run, which goes under `eval/…`.
        """
        self._write(step, records.evaluation(metrics, name))
        self._evaluated.setdefault(name, set()).add(step)
        of_set = f", {name}" if name else ""
        self.say(f"step {step}/{self._total}{of_set}: {summary(metrics)}")

    def has_evaluation(self, step: int, name: str = "") -> bool:
        """Whether the records hold this evaluation of a set; a silent reporter knows none."""
        return step in self._evaluated.get(name, ())

    def close(self) -> None:
        """Ends the live line and closes the files."""
        if self._bar is not None:
            self._bar.close()
        for log in self._logs:
            log.close()
        if self._tracker is not None:
            self._tracker.close()

    def flush(self) -> None:
        """Writes everything now, if that is possible."""
        self._flush(finish=True)

    def finish(self) -> None:
        """Makes sure that everything is written.

        Raises:
          UserError: something could not be.
        """
        self._flush(finish=True)
        if self._unwritten:
            raise UserError(
                f"expected to write metrics.jsonl and tensorboard, found {self._unwritten}; make "
                "room or mend the folder",
                about="run folder",
            )

    def _time_left(self, step: int) -> str:
        """Judged by the pace since the first report: compilation is before it."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
            return ""
        pace = (now - self._first[1]) / (step - self._first[0])
        return f", {tqdm.format_interval(pace * (self._total - step))} left"

    def _write(self, step: int, record: dict[str, float]) -> None:
        for log in self._logs:
            log.waiting.append((step, time.time(), record))
        self._flush()
        if self._tracker is not None:
            self._tracker.log(step, tagged(record))

    def _flush(self, *, finish: bool = False) -> None:
        due = [log for log in self._logs if finish or time.monotonic() - log.last >= log.interval]
        faults = [fault for log in due if (fault := log.write())]
        if faults and not self._unwritten:
            self.say(f"a report could not be written ({faults[0]}); it is kept, and tried again")
        self._unwritten = faults[0] if faults else ""


def summary(metrics: dict[str, float]) -> str:
    """The metrics of an evaluation on one line."""
    return (
        f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}, NLL {metrics['nll']:.4f}, "
        f"ECE {metrics['ece']:.4f}, Brier {metrics['brier']:.4f} "
        f"on {metrics['num_examples']:,} images"
    )
