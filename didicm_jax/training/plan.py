"""A run before its first step: everything checked, nothing computed, nothing written."""

from dataclasses import dataclass, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from didicm_jax import augment, data, models, parallel
from didicm_jax import config as configuration
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep
from didicm_jax.models.variables import Variables, split
from didicm_jax.parallel import chips
from didicm_jax.run import Description, tracker
from didicm_jax.training import initial, optimizers, sets, state

# Settings that each host may have of its own: what is read is compared by its content.
_OF_A_HOST = ("data.data_dir", "data.num_workers", "data.cache_gib", "model.init_from")


@dataclass(frozen=True)
class Durations:
    """The durations of a run, in steps."""

    total: int
    warmup: int
    log: int
    checkpoint: int


@dataclass(frozen=True)
class Plan:
    """A checked config and what it names."""

    config: ml_collections.ConfigDict
    dataset: data.Dataset
    mesh: Mesh
    policy: augment.Policy
    graphdef: nnx.GraphDef
    abstract: Variables  # shapes and types, no arrays
    durations: Durations
    sets: tuple[sets.Opened, ...]  # to evaluate on; the first decides what is best
    learning_rate: optax.Schedule
    optimizer: optax.GradientTransformation
    start: initial.Initial | None = None  # what it starts from, where not from random numbers

    @cached_property
    def description(self) -> Description:
        """Of its data set, with which examples it trains on, and which tell what is best."""
        train, test = self.dataset.train.digest(), self.dataset.test.digest()
        return replace(Description.of(self.dataset), trained_on=train, judged_on=test)

    @property
    def peak(self) -> float | None:
        """Operations a second that all devices could make in its type; None: not known of them."""
        chip = chips.find(self.mesh.devices.flat[0].device_kind)
        return None if chip is None else self.mesh.size * chip.peak(self.config.model.dtype)

    def describe(self) -> str:
        """What the run will do, for people."""
        count = sum(x.size for x in jax.tree.leaves(self.abstract.params))
        shape = "x".join(map(str, self.dataset.image_shape))
        kind = self.mesh.devices.flat[0].device_kind
        config, steps = self.config, self.durations
        redrawn, assumed = config.data.label_noise, config.diffusion.label_noise
        lines = {
            "devices": f"{self.mesh.size} x {kind}"
            + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
            + (f", peak {self.peak / 1e12:,.4g} TFLOP/s" if self.peak else ""),
            "data": f"{config.data.name}, {len(self.dataset.train):,} training and "
            f"{len(self.dataset.test):,} test images of {shape}, "
            f"{self.dataset.num_classes} classes"
            + (f", {redrawn:.4g} of the training labels redrawn" if redrawn else ""),
            "model": f"{config.model.name}, {count:,} parameters, {config.model.dtype}",
            "method": f"{config.method}, {config.optimizer.name}"
            + (f", assuming {assumed:.4g} of the labels redrawn" if assumed else ""),
            "training": f"{steps.total:,} steps of {config.train.batch_size} images "
            f"({config.train.duration})",
            "evaluation": ", ".join(f"{k} {v}" for k, v in sweep.describe(config).items()),
        }
        if config.evaluation.sets:
            lines["sets"] = "; ".join(
                f"{text} ({len(each.source):,} images)"
                for each, text in zip(self.sets, config.evaluation.sets, strict=True)
            )
        if self.start is not None:
            lines["init_from"] = self.start.words
        return "\n".join(f"{name:<11}{text}" for name, text in lines.items())

    def new_state(self) -> state.TrainState:
        """The state at step 0, made on the devices."""
        taken = None if self.start is None else self.start.variables
        return jax.jit(self._make_state, out_shardings=self.placement())(taken)

    def abstract_state(self) -> state.TrainState:
        """Its shapes, types and places: what a checkpoint is read into."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            self._shapes,
            self.placement(),
        )

    def placement(self) -> state.TrainState:
        """A sharding for each of its arrays."""
        shapes = self._shapes
        everywhere = jax.tree.map(lambda x: parallel.replicated(self.mesh), shapes)
        if not self.config.train.shard_optimizer:
            return everywhere
        return everywhere._replace(
            opt_state=parallel.spread(shapes.opt_state, self.mesh),
            ema=parallel.spread(shapes.ema, self.mesh),
        )

    @cached_property
    def _shapes(self) -> state.TrainState:
        # Asked three times before the first step, and each time the network would be traced.
        return jax.eval_shape(self._make_state)

    def _make_state(self, taken: Variables | None = None) -> state.TrainState:
        _, variables = _create(self.config, self.dataset)
        if taken is not None:
            variables = jax.tree.map(
                lambda fresh, x: fresh if x is None else jnp.copy(x), variables, taken
            )
        return state.create(variables, self.optimizer, ema=self.config.train.ema_decay > 0)


def make_plan(config: ml_collections.ConfigDict, *, begun: bool = False) -> Plan:
    """Checks a config against the data, the devices and the network.

    Args:
      config: of the run.
      begun: it has a checkpoint to go on from, so what it started from is not asked for.

    Raises:
      UserError: for every mistake that can be found before the first step, on any process;
        processes have other settings or data, so that each would train a network of its own.
    """
    mesh = parallel.make_mesh()
    with parallel.together():
        check(config, mesh.size)
        if config.report.wandb:
            tracker.check()
        dataset = build.dataset(config)
        drafted = draft(config, dataset, mesh)
        opened = sets.open_all(config, dataset, drafted.durations.total)
        drafted = replace(drafted, sets=opened)
        facts = _facts(drafted)
    parallel.agree(facts)
    if config.model.init_from and not parallel.any_process(begun):
        start = initial.read(config, drafted.description, drafted.abstract, mesh)
        drafted = replace(drafted, start=start)
    return drafted


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Checks what can be checked before the data are opened, which may take long.

    Raises:
      UserError: the config has a mistake, or a batch that the devices cannot share. Between two
        starts of a run the devices may change and the batch may not, so the advice is for either.
    """
    configuration.validate(config)
    fault = batch_fault(config, num_devices)
    if not fault:
        return
    batch_size, parts = config.train.batch_size, num_devices * config.train.accumulate
    mixes = bool(config.augment.mixup or config.augment.cutmix)
    fitting = max(2 * parts, parallel.round_up(batch_size, parts * (1 + mixes)))
    fewer = [str(count) for count in range(1, num_devices) if not batch_fault(config, count)]
    such = f", such as {' or '.join(fewer)} devices" if fewer else ""
    raise UserError(
        f"config.train.batch_size: {fault}; use another number of devices or of micro-batches "
        f"(config.train.accumulate){such}, or, in a new run, config.train.batch_size={fitting}"
        # How many there are is known when the data are opened.
        + (" where there are as many training images" if fitting > batch_size else "")
    )


def draft(config: ml_collections.ConfigDict, dataset: data.Dataset, mesh: Mesh) -> Plan:
    """A plan without what it is evaluated on and what it starts from, of any devices.

    Args:
      config: of the run, one that `check` has passed.
      dataset: its classes, its shape and its number of examples are looked at, and no image.
      mesh: of devices that may be described and not there (`jax.experimental.topologies`).

    Raises:
      UserError: the config does not fit the data.
    """
    batch_size = config.train.batch_size
    if len(dataset.train) < batch_size:
        raise UserError(
            f"config.train.batch_size: expected at most the {len(dataset.train)} training images, "
            f"found {batch_size}; lower it in a new run"
        )
    shift, side = config.augment.shift, min(dataset.image_shape[:2])
    if shift >= side:
        raise UserError(
            f"config.augment.shift: expected less than the {side} pixels of the shorter side, of "
            f"which nothing would be left, found {shift}; lower it"
        )
    graphdef, abstract = jax.eval_shape(lambda: _create(config, dataset))
    durations = _durations(config, len(dataset.train))
    settings = config.optimizer
    # A line up to the peak, which without a warm-up is where it starts, and a cosine down to 0.
    learning_rate = optax.warmup_cosine_decay_schedule(
        init_value=settings.warmup_learning_rate,
        peak_value=settings.learning_rate,
        warmup_steps=durations.warmup,
        decay_steps=durations.total,
    )
    return Plan(
        config,
        dataset,
        mesh,
        build.policy(config, mesh.devices.flat[0].platform),
        graphdef,
        abstract,
        durations,
        (),
        learning_rate,
        optimizers.create(settings, learning_rate),
    )


def _create(
    config: ml_collections.ConfigDict, dataset: data.Dataset
) -> tuple[nnx.GraphDef, Variables]:
    # rbg: the hundred draws of an initialisation compile in a third of the time of threefry's.
    key = jax.random.key(config.seed, impl="rbg")
    return split(build.model(config, dataset, nnx.Rngs(key)))


def _facts(drafted: Plan) -> dict[str, object]:
    """What must be the same on all processes, by its name."""
    settings, described = configuration.flatten(drafted.config), drafted.description
    facts = {f"config.{key}": value for key, value in settings.items() if key not in _OF_A_HOST}
    return facts | {
        "whether they start from a trained network": bool(drafted.config.model.init_from),
        "the classes": described.class_names,
        "the shape of the images": described.image_shape,
        "the training images": described.trained_on,
        "the images to evaluate on": [each.source.digest() for each in drafted.sets],
    }


def batch_fault(config: ml_collections.ConfigDict, num_devices: int, accumulate: int = 0) -> str:
    """Why so many devices cannot share the batch, by default as the config does; "" if they can."""
    batch_size, accumulate = config.train.batch_size, accumulate or config.train.accumulate
    parts = num_devices * accumulate
    what = f"{num_devices} devices x {accumulate} micro-batches"
    share = batch_size // parts
    if batch_size % parts:
        return f"expected a multiple of {parts} ({what}), found {batch_size}"
    # One image on a last map of one pixel has no variance; other devices' images are as good.
    normalizes = "norm_axis_name" in models.options_of(config.model.name)
    if normalizes and share * (num_devices if config.model.sync_batch_norm else 1) < 2:
        return (
            f"expected at least 2 images per device and micro-batch ({what}), for the variance of "
            f"BatchNorm, found {share}"
        )
    if (config.augment.mixup or config.augment.cutmix) and share % 2:
        return (
            "expected an even number of images per device and micro-batch for mixup and cutmix, "
            f"found {share}"
        )
    return ""


def _durations(config: ml_collections.ConfigDict, num_examples: int) -> Durations:
    def steps(key: str, *, zero: bool = False) -> int:
        section, name = key.split(".")
        return configuration.steps(
            config[section][name],
            batch_size=config.train.batch_size,
            num_examples=num_examples,
            key=key,
            zero=zero,
        )

    total, warmup = steps("train.duration"), steps("optimizer.warmup", zero=True)
    if warmup >= total:
        raise UserError(
            f"config.optimizer.warmup: expected less than the {total} steps of the run "
            f"({config.train.duration}), found {warmup} steps ({config.optimizer.warmup}); "
            "lower it, to '0 steps' for none"
        )
    return Durations(
        total,
        warmup,
        steps("train.log_every"),
        steps("train.checkpoint_every"),
    )
