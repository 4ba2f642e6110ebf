"""Cells side by side, each a process with cores or a device of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from didicm_jax.errors import UserError
from didicm_jax.parallel.chips import MEMORY_FRACTION, MEMORY_FRACTION_ONCE
from didicm_jax.training.stopping import StopRequest

STOPPED = 75  # the exit status of a cell that was asked to stop and can go on (EX_TEMPFAIL)
_POLL = 0.2  # seconds
_TAKEN = 0.9  # of a GPU's memory, by all cells on it together


class Lane(NamedTuple):
    """What one cell at a time has to itself."""

    cores: frozenset[int] | None
    environment: dict[str, str]


class Ended(NamedTuple):
    """How a cell's process ended."""

    name: str
    status: int
    log: Path


def lanes(jobs: int | None) -> list[Lane]:
    """The parts of this machine: one per GPU; without, one per core or as many as `jobs`.

    More jobs than GPUs share these, each with its share of the memory: small networks leave most of
    a GPU idle.

    Raises:
      UserError: JAX does not start here.
    """
    if jobs == 1:
        return [Lane(None, {})]
    # In another process: this one must not claim the devices that the cells need.
    asked = "import jax; print(jax.default_backend(), jax.local_device_count())"
    answer = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        said = (answer.stderr.strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            f"devices: expected JAX to find some, found {said!r}; mend its installation"
        )
    backend, devices = answer.stdout.split()[0], int(answer.stdout.split()[1])
    if backend == "gpu":
        visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        names = visible if len(visible) == devices else [str(i) for i in range(devices)]
        count = jobs or devices
        shared = -(-count // devices)
        share = {MEMORY_FRACTION: f"{_TAKEN / shared:.3f}", MEMORY_FRACTION_ONCE: ""}
        memory = {} if shared == 1 else share
        return [
            Lane(None, {"CUDA_VISIBLE_DEVICES": names[lane % devices], **memory})
            for lane in range(count)
        ]
    if backend != "cpu":  # a process takes all chips of a host
        return [Lane(None, {})]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = jobs or max(len(cores), 1)
    if not cores or count > len(cores):
        return [Lane(None, {})] * count
    return [Lane(frozenset(cores[lane::count]), {}) for lane in range(count)]


def run(
    names: Sequence[str],
    command: Callable[[str], list[str]],
    logs: Path,
    where: Sequence[Lane],
    *,
    deadline: float | None,
    ended: Callable[[Ended], None],
) -> None:
    """Runs the cells in this order, until a signal or the deadline, when those that run are saved.

    Args:
      names: of the cells.
      command: the program of a cell.
      logs: a folder for what each says, one file a cell.
      where: the lanes.
      deadline: on `time.monotonic`'s clock, when all that runs is asked to stop.
      ended: called with each cell that is done or failed.
    """
    waiting, free = list(names), list(range(len(where)))
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    asked: set[int] = set()  # processes, to stop
    logs.mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop:
        try:
            while waiting or running:
                over = stop.made or (deadline is not None and time.monotonic() > deadline)
                if over:
                    waiting.clear()
                    _stop([process for _, process in running.values()], asked)
                while waiting and free:
                    lane, name = free.pop(0), waiting.pop(0)
                    running[lane] = name, _start(command(name), logs / f"{name}.log", where[lane])
                time.sleep(_POLL)
                for lane, (name, process) in list(running.items()):
                    status = process.poll()
                    if status is None:
                        continue
                    del running[lane]
                    free.append(lane)
                    # Asked before it could answer, it dies of the signal: nothing was begun.
                    if status != STOPPED and not (over and status == -signal.SIGTERM):
                        ended(Ended(name, status, logs / f"{name}.log"))
        finally:
            _stop([process for _, process in running.values()], asked)
            for _, process in running.values():
                process.wait()


def _start(command: list[str], log: Path, lane: Lane) -> subprocess.Popen[bytes]:
    with log.open("ab") as output, _on(lane.cores):
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | lane.environment,
            # Ctrl-C reaches the study alone, which asks its cells to stop.
            start_new_session=True,
        )


@contextlib.contextmanager
def _on(cores: frozenset[int] | None) -> Iterator[None]:
    """A process that is started here has these cores from its first instruction on.

    So XLA, which counts them when it starts, makes as many threads.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # of this thread, which a new process inherits
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stop(processes: Sequence[subprocess.Popen[bytes]], asked: set[int]) -> None:
    for process in processes:
        if process.pid not in asked and process.poll() is None:
            asked.add(process.pid)
            process.send_signal(signal.SIGTERM)
