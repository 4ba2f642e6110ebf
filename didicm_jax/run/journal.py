"""What a run tells: the console, `metrics.jsonl`, TensorBoard, Weights & Biases."""

import abc
import contextlib
import json
import math
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter
from tqdm import tqdm

from didicm_jax import files
from didicm_jax.errors import UserError
from didicm_jax.run import records
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
        self._logs: list[_Log] = []
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
        self._logs = [_Lines(places.metrics_file), _Events(places.tensorboard, step)]
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
            self._tracker.log(step, _tagged(record))

    def _flush(self, *, finish: bool = False) -> None:
        due = [log for log in self._logs if finish or time.monotonic() - log.last >= log.interval]
        faults = [fault for log in due if (fault := log.write())]
        if faults and not self._unwritten:
            self.say(f"a report could not be written ({faults[0]}); it is kept, and tried again")
        self._unwritten = faults[0] if faults else ""


class _Log(abc.ABC):
    """Records on their way to a file."""

    interval = 0.0  # seconds between two writes

    def __init__(self) -> None:
        self.last = -math.inf  # when it was written to
        self.waiting: list[tuple[int, float, dict[str, float]]] = []  # step, seconds, record

    def write(self) -> str:
        """Writes what is waiting; returns why it could not, if so."""
        self.last = time.monotonic()
        if self.waiting:
            try:
                self._append()
            except OSError as error:
                return str(error)
            self.waiting.clear()
        return ""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes what is open between two writes."""

    @abc.abstractmethod
    def _append(self) -> None:
        """Writes `waiting`, so that doing it again after an OSError leaves each record once."""


class _Lines(_Log):
    """JSON lines."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = files.growing(path)

    @property
    def interval(self) -> float:  # type: ignore[override]
        """As long as the place needs."""
        return self._file.interval

    def _append(self) -> None:
        # NaN and infinity are no JSON: a loss that is not finite is written as null.
        lines = [
            json.dumps({"step": step} | {k: v if math.isfinite(v) else None for k, v in r.items()})
            for step, _, r in self.waiting
        ]
        self._file.append("".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        """Nothing is open."""


class _Events(_Log):
    """TensorBoard events.

    Not by `SummaryWriter`: its thread ends at the first failure, and then its queue blocks.
    """

    interval = 10.0  # each write waits for the disk

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self._folder, self._spool = folder, files.spool(folder)
        self._path = folder
        self._writer: RecordWriter | None = None
        self._files = 0
        # Later events are of a run that was cut off.
        self._start = step + 1 if step else None

    def _append(self) -> None:
        try:
            writer = self._open()
            for step, seconds, record in self.waiting:
                values = [
                    Summary.Value(tag=key, simple_value=value)
                    for key, value in _tagged(record).items()
                ]
                event = Event(wall_time=seconds, step=step, summary=Summary(value=values))
                writer.write(event.SerializeToString())
            writer.flush()
            began = time.monotonic()
            files.publish(self._path, self._folder / self._path.name)
            # Where that copies the whole file, 5 % of the time is enough for it.
            self.interval = max(_Events.interval, 20 * (time.monotonic() - began))
        except OSError:
            self.close()  # nothing is read after half an event: begin another file
            raise

    def _open(self) -> RecordWriter:
        if self._writer is not None and self._path.exists():
            return self._writer
        self.close()
        self._files += 1
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{self._files}"
        self._path = self._spool / name
        self._spool.mkdir(exist_ok=True)
        self._writer = RecordWriter(str(self._path))
        first = Event(wall_time=time.time(), file_version="brain.Event:2")
        self._writer.write(first.SerializeToString())
        if self._start is not None:
            start = SessionLog(status=SessionLog.START)
            event = Event(wall_time=time.time(), step=self._start, session_log=start)
            self._writer.write(event.SerializeToString())
        return self._writer

    def close(self) -> None:
        # What it could not write is still waiting.
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        self._writer = None


def _tagged(record: Mapping[str, float]) -> dict[str, float]:
    """A record whose keys all name what they are of, as dashboards group them."""
    return {key if "/" in key else f"train/{key}": value for key, value in record.items()}


def summary(metrics: dict[str, float]) -> str:
    """The metrics of an evaluation on one line."""
    return (
        f"top-1 {metrics['top1']:.2%}, top-5 {metrics['top5']:.2%}, NLL {metrics['nll']:.4f}, "
        f"ECE {metrics['ece']:.4f}, Brier {metrics['brier']:.4f} "
        f"on {metrics['num_examples']:,} images"
    )
