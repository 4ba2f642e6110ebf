"""A profile of training steps: what host and devices do, for TensorBoard or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from didicm_jax import files
from didicm_jax.errors import UserError


class Profiler:
    """Annotates the training steps of a run, and writes a trace of those that are asked for.

    A trace that cannot be written is told and does not end the run.
    """

    def __init__(
        self, steps: range, folder: Path, waiting: Callable[[], Any], say: Callable[[str], None]
    ) -> None:
        """Traces nothing yet.

        Args:
          steps: to trace, counted from 1 as the log does.
          folder: for the traces, each in a folder of its own; of several processes each has one.
          waiting: the context in which to wait for the devices.
          say: told where the trace is.
        """
        many = jax.process_count() > 1
        self._folder = folder / f"process{jax.process_index()}" if many else folder
        self._spool = files.spool(self._folder)
        self._steps, self._waiting, self._say = steps, waiting, say
        self._traced: list[int] = []

    @contextlib.contextmanager
    def step(self, step: int, before: Any) -> Iterator[None]:
        """Within it the step is launched.

        Args:
          step: its number.
          before: results of the steps before it, which are not to be in the trace.
        """
        if step in self._steps:
            if not self._traced:
                self._wait(before)
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # it would slow the host, and fill the trace
                jax.profiler.start_trace(
                    self._spool, create_perfetto_trace=True, profiler_options=options
                )
            self._traced.append(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def launched(self, step: int, results: Any) -> None:
        """Ends the trace with the last of its steps, when its results are there."""
        if self._traced and step + 1 not in self._steps:
            self._wait(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that a stop cut short."""
        if not self._traced:
            return
        first, last, self._traced = self._traced[0], self._traced[-1], []
        self._steps = range(0)
        try:
            jax.profiler.stop_trace()
            files.publish(self._spool, self._folder)
        except (OSError, RuntimeError, ValueError) as error:
            self._say(f"the profile could not be written ({' '.join(str(error).split())})")
        else:
            self._say(f"wrote a profile of steps {first} to {last} to {self._folder}")

    def _wait(self, results: Any) -> None:
        with self._waiting():
            jax.block_until_ready(results)


def check(steps: range, total: int) -> None:
    """Refuses steps that the run does not have.

    Args:
      steps: to trace.
      total: of the run.

    Raises:
      UserError: some of them are not within 1 to `total`.
    """
    if steps and (steps.start < 1 or steps.stop > total + 1):
        raise UserError(
            f"expected steps from 1 up to {total + 1} without it, for the run has {total}, found "
            f"{steps.start}:{steps.stop}; change it",
            about="profile",
        )
