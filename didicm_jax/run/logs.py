"""Records on their way to files: JSON lines, and TensorBoard's events."""

import abc
import contextlib
import json
import math
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from didicm_jax import files


class Log(abc.ABC):
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


class Lines(Log):
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


class Events(Log):
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
        # Later events, of a start that was cut off, do not count; None once that is written down.
        self._start: int | None = step + 1

    def _append(self) -> None:
        try:
            writer = self._open()
            for step, seconds, record in self.waiting:
                values = [
                    Summary.Value(tag=key, simple_value=value)
                    for key, value in tagged(record).items()
                ]
                event = Event(wall_time=seconds, step=step, summary=Summary(value=values))
                writer.write(event.SerializeToString())
            writer.flush()
            began = time.monotonic()
            files.publish(self._path, self._folder / self._path.name)
            self._start = None  # else another file would take back what is in this one
            # Where that copies the whole file, 5 % of the time is enough for it.
            self.interval = max(Events.interval, 20 * (time.monotonic() - began))
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
        """Closes the file; what it could not write is still waiting."""
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        self._writer = None


def tagged(record: Mapping[str, float]) -> dict[str, float]:
    """A record whose keys all name what they are of, as dashboards group them."""
    return {key if "/" in key else f"train/{key}": value for key, value in record.items()}
