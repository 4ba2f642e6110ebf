"""A run that is killed again and again, for `launch/chaos.py`."""

import itertools
import json
import random
import re
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from didicm_jax.run import Places

# What differs between two runs of the same: how long things took.
TIMINGS = ("images_per_second", "data_wait", "save_wait")
# And where one was killed: what is counted from its last start on, and what follows from the times.
_OF_A_START = ("mfu", "peak_memory_bytes", "replaced_images")
# Of the kills, every how many comes gently, and before the first step, from the second one on.
TERM_EVERY, EARLY_EVERY = 4, 7


class Restart(NamedTuple):
    """What one kill cost, up to where the run was before."""

    repeated: int  # steps that were run again
    first_step: float  # seconds from the start of the process to its first new step
    lost: float  # seconds from the kill until the run was as far as before


class Job:
    """A run that can be started, watched and killed."""

    def __init__(self, command: list[str], workdir: Path) -> None:
        self._workdir = workdir
        self._command = [*command, f"--workdir={workdir}"]
        self._starts = 0

    def start(self) -> None:
        """Starts, or starts again."""
        self._starts += 1
        self.log = self._workdir.with_name(f"{self._workdir.name}.{self._starts}.log")
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def step(self) -> int:
        """The last step that this start of it has reported; 0 for none."""
        steps = re.findall(r"^step (\d+)/", self.log.read_text(), flags=re.MULTILINE)
        return int(steps[-1]) if steps else 0

    def resumed(self) -> int:
        """The step that this start of it went on from."""
        match = re.search(r"^continuing from step (\d+)", self.log.read_text(), flags=re.MULTILINE)
        return int(match[1]) if match else 0

    def wait_for(self, step: int) -> float:
        """Waits until it has reported `step`, and returns the time then.

        Raises:
          SystemExit: it ended first.
        """
        while self.step() < step:
            if self._process.poll() is not None:
                raise SystemExit(
                    f"error: expected the run to reach step {step}, found its end with status "
                    f"{self._process.returncode}, see {self.log}"
                )
            time.sleep(0.005)
        return time.monotonic()

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal and waits for the end.

        Raises:
          SystemExit: it had ended, or a gentle signal did not end it well.
        """
        if self._process.poll() is not None:
            raise SystemExit("error: the run ended before all kills; give it more steps")
        self._process.send_signal(number)
        status = self._process.wait()
        # Before the run begins, nobody listens to a gentle signal yet.
        if status not in (0, -number) or (status == 0 and number == signal.SIGKILL):
            raise SystemExit(
                f"error: expected exit status 0 after {number.name}, found {status}, see {self.log}"
            )

    def end(self) -> None:
        """Ends it, if it is running."""
        if self._starts and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def finish(self) -> None:
        """Waits for its end.

        Raises:
          SystemExit: it failed.
        """
        if self._process.wait() != 0:
            raise SystemExit(
                f"error: expected the run to end well, found it failed, see {self.log}"
            )

    def records(self) -> list[dict[str, Any]]:
        """What `metrics.jsonl` holds."""
        lines = Places(self._workdir).metrics_file.read_text().splitlines()
        return [json.loads(line) for line in lines]


def torment(job: Job, kills: int, rng: random.Random, total: int) -> list[Restart]:
    """Runs the job to its end with so many kills in between, and says what each has cost."""
    # The last kill leaves some steps to run.
    targets = sorted(rng.randrange(1, max(2, total - 2)) for _ in range(kills))
    restarts: list[Restart] = []
    killed, reached, early = 0.0, 0, False
    for count in range(kills + 1):
        started = time.monotonic()
        job.start()
        last = count == kills
        if not last and count % EARLY_EVERY == 2:
            time.sleep(rng.uniform(0.2, 2.0))
            early = True
        else:
            # As far as before at least, so that the run gets on between two kills.
            first = job.wait_for(1) - started
            back = job.wait_for(min(reached, total))
            if killed:
                restarts.append(Restart(reached - job.resumed(), first, back - killed))
            early = False
            if not last:
                job.wait_for(targets[count])
                time.sleep(rng.uniform(0.0, 0.5))
        if last:
            break
        if not early:  # one before the first step adds to what the one before it has cost
            killed = time.monotonic()
        job.kill(signal.SIGTERM if count % TERM_EVERY == 1 else signal.SIGKILL)
        reached = max(reached, job.step())
    job.finish()
    return restarts


def differences(peace: list[dict[str, Any]], chaos: list[dict[str, Any]]) -> int:
    """How many lines differ in more than their timings, or are missing, or too many."""

    def stripped(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        left_out = (*TIMINGS, *_OF_A_START)
        return [{k: v for k, v in record.items() if k not in left_out} for record in records]

    pairs = itertools.zip_longest(stripped(peace), stripped(chaos))
    return sum(a != b for a, b in pairs)


def summary(restarts: list[Restart], peace: list[dict[str, Any]], seconds: float) -> dict[str, str]:
    """What the kills have cost, row by row.

    Args:
      restarts: what each kill has cost.
      peace: `metrics.jsonl` of the run that was left in peace.
      seconds: that it took.
    """
    losses = [record for record in peace if "loss" in record]
    saving = sum(r["save_wait"] / r["images_per_second"] for r in losses)
    stepping = sum(1 / r["images_per_second"] for r in losses)
    return {
        "steps of the run": f"{peace[-1]['step']}",
        "steps repeated": f"{sum(r.repeated for r in restarts)}",
        "seconds lost per kill": _spread([r.lost for r in restarts]),
        "seconds from restart to first new step": _spread([r.first_step for r in restarts]),
        "seconds of the run left in peace": f"{seconds:.0f}",
        "share of the step loop spent saving": f"{saving / stepping:.2%}",
        "lines of metrics.jsonl": f"{len(peace)}",
    }


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.1f}, worst {max(values):.1f}"
