"""A whole run: plan, restore or start, step, evaluate, save."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from didicm_jax import augment, build, checkpoint, data, devices, reporting
from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.evaluation import loop as evaluation
from didicm_jax.evaluation import posterior
from didicm_jax.training import objectives, optimizers, state
from didicm_jax.training.step import Prepare, TrainStep, make_train_step


@dataclass(frozen=True)
class Durations:
    """The durations of a run, in steps."""

    total: int
    warmup: int
    log: int
    evaluate: int
    checkpoint: int


@dataclass(frozen=True)
class Run:
    """A run before its first step: everything checked, nothing computed, nothing written."""

    config: ml_collections.ConfigDict
    dataset: data.Dataset
    mesh: Mesh
    graphdef: nnx.GraphDef
    abstract: state.Variables  # shapes and types, no arrays
    durations: Durations

    def describe(self) -> str:
        """What the run will do, for people."""
        count = sum(x.size for x in jax.tree.leaves(self.abstract.params))
        shape = "x".join(map(str, self.dataset.image_shape))
        kind = self.mesh.devices.flat[0].device_kind
        config, steps = self.config, self.durations
        lines = {
            "devices": f"{self.mesh.size} x {kind}",
            "data": f"{config.data.name}, {len(self.dataset.train):,} training and "
            f"{len(self.dataset.test):,} test images of {shape}, "
            f"{self.dataset.num_classes} classes",
            "model": f"{config.model.name}, {count:,} parameters, {config.model.dtype}",
            "method": f"{config.method}, {config.optimizer.name}",
            "training": f"{steps.total:,} steps of {config.train.batch_size} images "
            f"({config.train.duration})",
            "evaluation": ", ".join(f"{k} {v}" for k, v in posterior.describe(config).items()),
        }
        return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


def plan(config: ml_collections.ConfigDict) -> Run:
    """Checks a config against the data, the devices and the network.

    Raises:
      UserError: for every mistake that can be found before the first step.
    """
    configuration.validate(config)
    dataset, mesh = build.dataset(config), devices.make_mesh()
    batch_size = config.train.batch_size
    what = f"{mesh.size} devices x {config.train.accumulate} micro-batches"
    devices.check_divides("train.batch_size", batch_size, mesh.size * config.train.accumulate, what)
    devices.check_divides(
        "evaluation.batch_size", config.evaluation.batch_size, mesh.size, f"{mesh.size} devices"
    )
    if len(dataset.train) < batch_size:
        raise UserError(
            f"config.train.batch_size: expected at most the {len(dataset.train)} training images, "
            f"found {batch_size}"
        )
    graphdef, abstract = jax.eval_shape(lambda: _create(config, dataset))
    return Run(config, dataset, mesh, graphdef, abstract, _durations(config, len(dataset.train)))


def train(run: Run, workdir: Path) -> dict[str, Any]:
    """Trains, or goes on training, and evaluates at the end.

    Args:
      run: from `plan`.
      workdir: exists; `metrics.jsonl`, `tensorboard`, `checkpoints` and `evaluation.json` go here.

    Returns:
      What `evaluation.json` holds.

    Raises:
      UserError: too many non-finite steps in a row.
    """
    config, durations = run.config, run.durations
    schedule, optimizer = _optimizer(run)
    step_fn, predict = _train_step(run, optimizer), make_predict(run)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(checkpoint.Checkpoints(workdir)))
        start = checkpoints.latest() or 0
        reporter = stack.enter_context(
            contextlib.closing(reporting.Reporter(workdir, start, durations.total))
        )
        if start:
            done = start >= durations.total
            reporter.say(f"{'finished at' if done else 'continuing from'} step {start}")
            current = checkpoints.restore(start, _abstract_state(run, optimizer))
        else:
            current = _initial_state(run, optimizer)
        batches = stack.enter_context(
            contextlib.closing(
                data.train_batches(
                    run.dataset.train,
                    batch_size=config.train.batch_size,
                    seed=config.seed,
                    start_step=start,
                )
            )
        )
        clock = _Clock(config.train.batch_size)
        metrics: dict[str, Any] | None = None
        for step in range(start + 1, durations.total + 1):
            batch = next(batches)
            inputs = {"image": batch["image"], "label": batch["label"]}
            current, results = step_fn(current, devices.shard(inputs, run.mesh))
            clock.tick()
            metrics = None
            last = step == durations.total
            if last or step % durations.log == 0:
                _report(reporter, step, results, schedule, clock, config.train.max_skipped)
            if last or step % durations.evaluate == 0:
                metrics = _evaluate(run, predict, current)
                reporter.evaluation(step, metrics)
            if last or metrics or step % durations.checkpoint == 0:
                checkpoints.save(step, current, top1=metrics["top1"] if metrics else None)
                clock.restart()
        if metrics is None:
            metrics = _evaluate(run, predict, current)
            reporter.say(reporting.summary(metrics))
    return _conclude(run, workdir, metrics, max(start, durations.total))


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
    with contextlib.closing(checkpoint.Checkpoints(workdir)) as checkpoints:
        step = checkpoints.best() if which == "best" else checkpoints.latest()
        if step is None:
            raise UserError(
                f"--workdir: expected a {which} checkpoint in {workdir}, found none; train first"
            )
        current = checkpoints.restore(step, _abstract_state(run, _optimizer(run)[1]))
    return _conclude(run, workdir, _evaluate(run, make_predict(run), current), step)


def make_predict(run: Run) -> evaluation.Predict:
    """The jitted map from bytes to posteriors of a run's network and sampler."""
    return evaluation.make_predict(
        run.graphdef,
        posterior.create(run.config, run.dataset.num_classes),
        build.normalizer(run.config),
        run.mesh,
        seed=run.config.seed,
    )


class _Clock:
    """Images per second since the last report, saving and evaluation left out."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        self._steps, self._since = 0, time.monotonic()

    def tick(self) -> None:
        self._steps += 1

    def images_per_second(self) -> float:
        elapsed = time.monotonic() - self._since
        rate = self._steps * self._batch_size / elapsed
        self.restart()
        return rate


def _create(
    config: ml_collections.ConfigDict, dataset: data.Dataset
) -> tuple[nnx.GraphDef, state.Variables]:
    # rbg: the hundred draws of an initialisation compile in a third of the time of threefry's.
    key = jax.random.key(config.seed, impl="rbg")
    return state.split(build.model(config, dataset, nnx.Rngs(key)))


def _durations(config: ml_collections.ConfigDict, num_examples: int) -> Durations:
    def steps(key: str) -> int:
        section, name = key.split(".")
        return configuration.steps(
            config[section][name],
            batch_size=config.train.batch_size,
            num_examples=num_examples,
            key=key,
        )

    total, warmup = steps("train.duration"), steps("optimizer.warmup")
    if warmup >= total:
        raise UserError(
            f"config.optimizer.warmup: expected less than the {total} steps of the run "
            f"({config.train.duration}), found {warmup} steps ({config.optimizer.warmup})"
        )
    return Durations(
        total,
        warmup,
        steps("train.log_every"),
        steps("evaluation.every"),
        steps("train.checkpoint_every"),
    )


def _optimizer(run: Run) -> tuple[optax.Schedule, optax.GradientTransformation]:
    settings = run.config.optimizer
    schedule = optimizers.learning_rate_schedule(
        settings.learning_rate,
        warmup_steps=run.durations.warmup,
        total_steps=run.durations.total,
        initial=settings.warmup_learning_rate,
    )
    make = optimizers.OPTIMIZERS[settings.name]
    return schedule, make(
        schedule, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm
    )


def _new_state(run: Run, optimizer: optax.GradientTransformation) -> state.TrainState:
    _, variables = _create(run.config, run.dataset)
    return state.create(variables, optimizer, ema=run.config.train.ema_decay > 0)


def _initial_state(run: Run, optimizer: optax.GradientTransformation) -> state.TrainState:
    """The state at step 0, made on the devices."""
    sharding = devices.replicated(run.mesh)
    return jax.jit(lambda: _new_state(run, optimizer), out_shardings=sharding)()


def _abstract_state(run: Run, optimizer: optax.GradientTransformation) -> state.TrainState:
    """Its shapes, types and places: what a checkpoint is read into, without making one first."""
    sharding = devices.replicated(run.mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(lambda: _new_state(run, optimizer)),
    )


def _train_step(run: Run, optimizer: optax.GradientTransformation) -> TrainStep:
    config = run.config
    return make_train_step(
        run.graphdef,
        objectives.create(config),
        _prepare(config, run.dataset.num_classes),
        optimizer,
        run.mesh,
        seed=config.seed,
        min_time=config.diffusion.min_time,
        stratified=config.diffusion.stratified,
        accumulate=config.train.accumulate,
        ema_decay=config.train.ema_decay,
    )


def _prepare(config: ml_collections.ConfigDict, num_classes: int) -> Prepare:
    """Augments and normalises the images and makes the targets."""
    normalize = build.normalizer(config)

    def prepare(
        keys: chex.PRNGKey, images: chex.Array, labels: chex.Array
    ) -> tuple[chex.Array, chex.Array]:
        images = augment.small(keys, images, flip=config.augment.flip, shift=config.augment.shift)
        one_hot = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
        return normalize(images), optax.smooth_labels(one_hot, config.train.label_smoothing)

    return prepare


def _report(
    reporter: reporting.Reporter,
    step: int,
    results: Any,
    schedule: optax.Schedule,
    clock: _Clock,
    max_skipped: int,
) -> None:
    """Logs a step, which waits for it, and stops a run whose steps are all thrown away."""
    results = jax.device_get(results)
    applied = step - int(results.skipped)
    record = {
        "loss": float(results.loss),
        "learning_rate": float(schedule(max(applied - 1, 0))),
        "grad_norm": float(results.grad_norm),
        "skipped_steps": int(results.skipped),
        "images_per_second": clock.images_per_second(),
    }
    reporter.train(step, record)
    if results.skipped_in_row >= max_skipped:
        raise UserError(
            f"step {step}: expected finite losses, found {results.skipped_in_row} non-finite steps "
            "in a row; lower config.optimizer.learning_rate or raise config.diffusion.min_time"
        )


def _evaluate(run: Run, predict: evaluation.Predict, current: state.TrainState) -> dict[str, Any]:
    return evaluation.evaluate(
        predict,
        current.best_variables,
        run.dataset.test,
        run.mesh,
        batch_size=run.config.evaluation.batch_size,
    )


def _conclude(run: Run, workdir: Path, metrics: dict[str, Any], step: int) -> dict[str, Any]:
    result = metrics | posterior.describe(run.config) | {"step": step}
    reporting.write_json(workdir / "evaluation.json", result)
    return result
