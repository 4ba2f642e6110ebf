"""A whole run: restore or start, step, report, evaluate, save."""

import contextlib
import time
from pathlib import Path
from typing import Any

import jax

from didicm_jax import checkpoint, devices, reporting
from didicm_jax.errors import UserError
from didicm_jax.evaluation import loop as evaluation
from didicm_jax.evaluation import posterior
from didicm_jax.training import objectives, state
from didicm_jax.training.feed import Feed
from didicm_jax.training.plan import Run
from didicm_jax.training.step import Metrics, TrainStep, make_train_step


def train(run: Run, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on training, and evaluates at the end.

    Args:
      run: from `plan`.
      workdir: exists; `metrics.jsonl`, `tensorboard`, `checkpoints` and `evaluation.json` go here.

    Returns:
      What `evaluation.json` holds.

    Raises:
      UserError: too many non-finite steps in a row, or too many broken images.
    """
    config, durations = run.config, run.durations
    step_fn, predict = make_step(run), make_predict(run)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(checkpoint.Checkpoints(workdir)))
        start = checkpoints.latest() or 0
        reporter = stack.enter_context(
            contextlib.closing(reporting.Reporter(workdir, start, durations.total))
        )
        if start:
            done = start >= durations.total
            reporter.say(f"{'finished at' if done else 'continuing from'} step {start}")
            current = checkpoints.restore(start, run.abstract_state())
        else:
            current = run.new_state()
        if start >= durations.total:
            metrics = _evaluate(run, predict, current)
            reporter.say(reporting.summary(metrics))
            return _conclude(run, workdir, metrics, start)
        feed = Feed(
            run.dataset.train,
            run.mesh,
            batch_size=config.train.batch_size,
            seed=config.seed,
            repeats=config.data.repeats,
            step=start,
        )
        stack.enter_context(contextlib.closing(feed))
        pace = _Pace(feed, config.train.batch_size)
        batch, previous = feed.take(), None
        for step in range(start + 1, durations.total + 1):
            current, results = step_fn(current, batch)
            last = step == durations.total
            if not last:
                batch = feed.take(running=results)
            # One step in flight and one in the queue: no further, or batches pile up in memory.
            if previous is not None:
                _check_finite(step - 1, previous, config.train.max_skipped)
            previous = results
            pace.steps += 1
            if last or step % durations.log == 0:
                _report(run, reporter, step, results, pace)
            evaluated = last or step % durations.evaluate == 0
            if evaluated:
                metrics = _evaluate(run, predict, current)
                reporter.evaluation(step, metrics)
            if evaluated or step % durations.checkpoint == 0:
                checkpoints.save(step, current, top1=metrics["top1"] if evaluated else None)
                pace.restart()
    return _conclude(run, workdir, metrics, durations.total)


def evaluate(run: Run, workdir: Path, which: str = "latest") -> dict[str, Any]:
    """Evaluates a checkpoint of a run.

    Args:
      run: from `plan`.
      workdir: of the run.
      which: the `latest` or the `best` checkpoint.

    Returns:
      What `evaluation.json` holds.

    Raises:
      UserError: there is no such checkpoint.
    """
    with contextlib.closing(checkpoint.Checkpoints(workdir, create=False)) as checkpoints:
        step = checkpoints.best() if which == "best" else checkpoints.latest()
        if step is None:
            raise UserError(
                f"--workdir: expected a {which} checkpoint in {workdir}, found none; train first"
            )
        current = checkpoints.restore(step, run.abstract_state())
    return _conclude(run, workdir, _evaluate(run, make_predict(run), current), step)


def make_step(run: Run) -> TrainStep:
    """The jitted training step of a run."""
    config, num_classes = run.config, run.dataset.num_classes
    return make_train_step(
        run.graphdef,
        objectives.create(config),
        lambda keys, images, labels: run.policy.train(keys, images, labels, num_classes),
        run.optimizer,
        run.mesh,
        seed=config.seed,
        min_time=config.diffusion.min_time,
        stratified=config.diffusion.stratified,
        accumulate=config.train.accumulate,
        ema_decay=config.train.ema_decay,
    )


def make_predict(run: Run) -> evaluation.Predict:
    """The jitted map from bytes to posteriors of a run's network and sampler."""
    return evaluation.make_predict(
        run.graphdef,
        posterior.create(run.config, run.dataset.num_classes),
        run.policy.eval,
        run.mesh,
        seed=run.config.seed,
    )


class _Pace:
    """Throughput since the last report, with saving and evaluation left out."""

    def __init__(self, feed: Feed, batch_size: int) -> None:
        self._feed, self._batch_size = feed, batch_size
        self.restart()

    def restart(self) -> None:
        self.steps, self._since, self._waited = 0, time.monotonic(), self._feed.waited

    def record(self) -> dict[str, float]:
        elapsed = time.monotonic() - self._since
        record = {
            "images_per_second": self.steps * self._batch_size / elapsed,
            "data_wait": (self._feed.waited - self._waited) / elapsed,
            "replaced_images": self._feed.replaced,
        }
        self.restart()
        return record


def _report(
    run: Run, reporter: reporting.Reporter, step: int, results: Metrics, pace: _Pace
) -> None:
    """Logs a step, which waits for it."""
    results = jax.device_get(results)
    applied = step - int(results.skipped)
    record = {
        "loss": float(results.loss),
        "learning_rate": float(run.learning_rate(max(applied - 1, 0))),
        "grad_norm": float(results.grad_norm),
        "skipped_steps": int(results.skipped),
    }
    reporter.train(step, record | pace.record())


def _check_finite(step: int, results: Metrics, max_skipped: int) -> None:
    """Waits for a step, and stops a run whose steps are all thrown away."""
    if (in_row := int(results.skipped_in_row)) >= max_skipped:
        raise UserError(
            f"step {step}: expected finite losses, found {in_row} non-finite steps in a row; "
            "lower config.optimizer.learning_rate or raise config.diffusion.min_time"
        )


def _evaluate(run: Run, predict: evaluation.Predict, current: state.TrainState) -> dict[str, float]:
    return evaluation.evaluate(
        predict,
        current.averaged,
        run.dataset.test,
        run.mesh,
        # Padding is masked, so any number of devices will do.
        batch_size=devices.round_up(run.config.evaluation.batch_size, run.mesh.size),
    )


def _conclude(run: Run, workdir: Path, metrics: dict[str, float], step: int) -> dict[str, Any]:
    result = metrics | posterior.describe(run.config) | {"step": step}
    reporting.write_json(workdir / "evaluation.json", result)
    return result
