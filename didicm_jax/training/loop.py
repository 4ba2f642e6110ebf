"""A whole run: restore or start, step, report, evaluate, save; and leave nothing half-done."""

import contextlib
import functools
import time
from typing import Any, NamedTuple

import jax

from didicm_jax import parallel
from didicm_jax.evaluation import loop as evaluation
from didicm_jax.evaluation import record
from didicm_jax.run import RunFolder, checkpoints, journal, worth
from didicm_jax.training.diagnosis import diagnose, diverged
from didicm_jax.training.evaluations import Evaluations, Found
from didicm_jax.training.feed import Feed, Pace
from didicm_jax.training.plan import Plan
from didicm_jax.training.profiling import Profiler
from didicm_jax.training.programs import make_evaluation, make_local, make_step
from didicm_jax.training.state import TrainState
from didicm_jax.training.step import Metrics
from didicm_jax.training.stopping import StopRequest
from didicm_jax.training.utilization import Utilization

ADVICE = "the same command on every host goes on from the last checkpoint"


class Outcome(NamedTuple):
    """How a call of `train` ended."""

    metrics: dict[str, Any] | None  # what `evaluation.json` holds; None: stopped before the end
    step: int  # the steps that are done and saved
    signal: str  # that stopped it: its name, or "a signal to another process"


def train(
    run: Plan,
    folder: RunFolder,
    *,
    peer_timeout: float = 600,
    debug_nans: bool = False,
    profile: range = range(0),
) -> Outcome:
    """Trains, or goes on training, and evaluates at the end.

    SIGTERM and SIGINT, on any process, end it early with everything saved.

    Args:
      run: from `plan.make_plan`.
      folder: from `RunFolder.claim`; reports, checkpoints and the last evaluation go here.
      peer_timeout: seconds without progress after which a process gives the others up.
      debug_nans: look for the operation behind the first non-finite step, and raise.
      profile: steps to write a trace of, within the run (`profiling.check`).

    Raises:
      UserError: another start trains the run, too many non-finite steps in a row, too many broken
        images, no checkpoint that is whole or of this network, or the last save failed.
      FloatingPointError: with `debug_nans`, what was not finite and where.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.alone())
        stop = stack.enter_context(StopRequest())
        watch = stack.enter_context(parallel.Watch(peer_timeout, ADVICE))
        return _Training(run, folder, stop, watch, stack, debug_nans, profile).run()


class _Training:
    """One call of `train`: its resources, and what it does with them."""

    def __init__(
        self,
        run: Plan,
        folder: RunFolder,
        stop: StopRequest,
        watch: parallel.Watch,
        stack: contextlib.ExitStack,
        debug_nans: bool,
        profile: range,
    ) -> None:
        self.plan, self.folder, self.stop, self.watch = run, folder, stop, watch
        self.durations, self.debug_nans, self.profile = run.durations, debug_nans, profile
        self.stack = stack
        self.reporter: journal.Reporter | None = None
        self.predict = make_evaluation(run)
        known = {}
        if parallel.is_main():
            best = run.config.evaluation.best
            known = worth.recorded(folder.metrics_file, run.sets[0].name, best)
        self.checkpoints = stack.enter_context(
            contextlib.closing(checkpoints.Checkpoints(folder.path, known=known, say=self._say))
        )
        self._words: dict[str, int] = {}

    def run(self) -> Outcome:
        restored = self.checkpoints.restore_latest(self.plan.abstract_state())
        start, current = restored or (0, self.plan.new_state())
        if restored is None and self.plan.start is not None:
            self.checkpoints.save(0, current)  # the source is read once, and may change or go
        total = self.durations.total
        config = self.plan.config
        with parallel.alone() as mine:  # the others would wait for one who cannot report
            reporter = journal.Reporter(
                self.folder.path,
                start,
                total,
                silent=not mine,
                tracked=config.to_dict() if config.report.wandb else None,
            )
        self.reporter = self.stack.enter_context(contextlib.closing(reporter))
        if start:
            done = start >= total
            self._say(f"{'finished at' if done else 'continuing from'} step {start}")
        if self.profile and self.profile.stop <= start + 1:
            self._say(f"no profile is written: step {self.profile[-1]} is past")
        evaluations = Evaluations(
            self.plan,
            self.predict,
            reporter,
            save=functools.partial(self._save, reporter),
            asked_to_stop=self._asked_to_stop,
            waiting=self.watch.waiting,
        )
        found: Found | None = {}
        if start and evaluations.due(start):
            found = evaluations.catch_up(start, current)
            if not found and self._asked_to_stop():
                return self._stopped(start)
        if start < total:
            start, found = self._steps(reporter, evaluations, start, current)
        parallel.barrier()
        self.checkpoints.finish()
        reporter.finish()
        if found is None:
            return self._stopped(start)
        result = _conclude(self.plan, self.folder, found[evaluations.judge], total)
        return Outcome(result, total, "")

    def _steps(
        self,
        reporter: journal.Reporter,
        evaluations: Evaluations,
        start: int,
        current: TrainState,
    ) -> tuple[int, Found | None]:
        """From step `start` to the end: the last step done, and its evaluations unless stopped."""
        config, total = self.plan.config, self.durations.total
        feed = self.stack.enter_context(contextlib.closing(_feed(self.plan, start)))
        step_fn = make_step(self.plan, donate=not self.debug_nans)
        pace, used = Pace(feed, config.train.batch_size), Utilization(self.plan, self._say)
        profiler = Profiler(self.profile, self.folder.profile, self.watch.waiting, self._say)
        self.stack.enter_context(contextlib.closing(profiler))
        batch, previous, found = feed.take(), None, None
        for step in range(start + 1, total + 1):
            before = current if self.debug_nans else None
            batch |= self._host_words(feed)
            last = step == total
            with profiler.step(step, previous):
                if step == start + 1:
                    current, results = step_fn(current, batch)
                    jax.block_until_ready(results)  # whoever compiles longest is not given up
                else:
                    with self.watch.waiting():
                        current, results = step_fn(current, batch)
                if before is not None and int(results.skipped_in_row) > 0:
                    diagnose(make_local(self.plan), before, batch, step)
                if not last:
                    batch = feed.take(running=results)
            profiler.launched(step, results)
            # One step in flight and one in the queue: no further, or batches pile up in memory.
            stopping = False
            if previous is not None:
                self._check_finite(step - 1, previous)
                stopping = bool(previous.stop)
            previous = results
            if last:  # which no step comes after to ask about
                self._check_finite(step, results)
            pace.steps += 1
            if last or step % self.durations.log == 0:
                self._report(reporter, step, results, pace, used)
            found, due = None, evaluations.due(step)
            if stopping or due or step % self.durations.checkpoint == 0:
                saving = time.monotonic()
                self._save(reporter, step, current)
                pace.saved(time.monotonic() - saving)
            if due and not (stopping and not last):
                found = evaluations.run(step, current, due)
                stopping = stopping or found is None
                pace.restart()
            self.checkpoints.check()
            if stopping:
                return step, found if last else None
        return total, found

    def _save(
        self,
        reporter: journal.Reporter,
        step: int,
        current: TrainState,
        evaluated: float | None = None,
    ) -> None:
        # No peer may be missing, and no record of a saved step be lost.
        with self.watch.waiting():
            parallel.barrier()
        reporter.flush()
        self.checkpoints.save(step, current, evaluated=evaluated)

    def _asked_to_stop(self) -> bool:
        return parallel.any_process(self.stop.made)

    def _host_words(self, feed: Feed) -> dict[str, jax.Array]:
        """What this process tells the others with the next step."""
        words = {"stop": self.stop.made, "replaced": feed.replaced}
        if words != self._words:  # they seldom change, and a transfer costs more than a look
            self._words = words
            self._on_devices = {
                name: parallel.from_hosts(value, self.plan.mesh) for name, value in words.items()
            }
        return self._on_devices

    def _check_finite(self, step: int, results: Metrics) -> None:
        """Waits for a step, and stops a run whose steps are all thrown away."""
        with self.watch.waiting():
            jax.block_until_ready(results)
        in_row = int(results.skipped_in_row)
        if in_row < self.plan.config.train.max_skipped:
            return
        self.checkpoints.finish()
        good = self.checkpoints.latest()
        where = "no checkpoint yet" if good is None else f"the last good checkpoint is step {good}"
        raise diverged(self.plan.config, step, in_row, where)

    def _report(
        self,
        reporter: journal.Reporter,
        step: int,
        results: Metrics,
        pace: Pace,
        utilization: Utilization,
    ) -> None:
        """Logs a step, which waits for it."""
        with self.watch.waiting():
            results = jax.device_get(results)
        applied = step - int(results.skipped)
        logged = {
            "loss": float(results.loss),
            "learning_rate": float(self.plan.learning_rate(max(applied - 1, 0))),
            "grad_norm": float(results.grad_norm),
            "skipped_steps": int(results.skipped),
            "replaced_images": int(results.replaced),
        }
        paced = pace.record()
        used = utilization.record(paced["images_per_second"])
        reporter.train(step, logged | paced | used)

    def _say(self, text: str) -> None:
        if self.reporter is not None:  # which has the live line to keep
            self.reporter.say(text)
        elif parallel.is_main():
            print(text, flush=True)

    def _stopped(self, step: int) -> Outcome:
        return Outcome(None, step, self.stop.name or "a signal to another process")


def _feed(run: Plan, step: int) -> Feed:
    return Feed(
        run.dataset.train,
        run.mesh,
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
        repeats=run.config.data.repeats,
        step=step,
    )


def _conclude(
    run: Plan, folder: RunFolder, found: evaluation.Evaluation, step: int
) -> dict[str, Any]:
    result = record.of(
        [record.of_sampler(run.config, found.scores)],
        found,
        step=step,
        images=record.images_of(run.config),
        class_names=run.dataset.class_names,
    )
    if parallel.is_main():
        record.write(folder.path, result)
    return result
