"""The compiled programs of a run."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from didicm_jax import parallel
from didicm_jax.inference import program
from didicm_jax.training import objectives
from didicm_jax.training.plan import Plan
from didicm_jax.training.step import (
    LocalGradients,
    TrainStep,
    make_local_gradients,
    make_train_step,
)


def make_local(run: Plan) -> LocalGradients:
    """What one device does in a training step of a run."""
    config, num_classes = run.config, run.dataset.num_classes
    return make_local_gradients(
        run.graphdef,
        objectives.create(config),
        lambda keys, images, labels, index: run.policy.train(
            keys, images, labels, num_classes, index
        ),
        seed=config.seed,
        accumulate=config.train.accumulate,
        modes=_modes(run),
    )


def _modes(run: Plan) -> dict[str, str]:
    """How the layers of its network differ in training from how they are made."""
    config, modes = run.config, {}
    if config.train.remat != "none":
        modes["remat"] = config.train.remat
    # In float32 it knows no attention, and on other devices there is no cuDNN.
    if (
        config.model.attention == "cudnn"
        and config.model.dtype == "bfloat16"
        and run.mesh.devices.flat[0].platform in ("cuda", "gpu")
    ):
        modes["attention"] = "cudnn"
    return modes


def make_step(run: Plan, *, donate: bool = True) -> TrainStep:
    """The jitted training step of a run."""
    return make_train_step(
        make_local(run),
        run.optimizer,
        run.mesh,
        accumulate=run.config.train.accumulate,
        ema_decay=run.config.train.ema_decay,
        placement=run.placement(),
        donate=donate,
    )


def abstract_batch(run: Plan) -> dict[str, jax.ShapeDtypeStruct]:
    """What the step of a run takes beside its state: shapes, types and places, no arrays."""
    size, rows = run.config.train.batch_size, NamedSharding(run.mesh, PartitionSpec(parallel.AXIS))
    shapes = {
        "image": ((size, *run.dataset.image_shape), jnp.uint8),
        "label": ((size,), jnp.int32),
        "index": ((size,), jnp.int32),
        "stop": ((run.mesh.size,), jnp.float32),
        "replaced": ((run.mesh.size,), jnp.float32),
    }
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for name, (shape, dtype) in shapes.items()
    }


def make_evaluation(run: Plan) -> program.Program:
    """The program of the evaluations, traced: a mistake in it costs no training."""
    traced = program.create(run.config, run.graphdef, run.dataset.num_classes, run.mesh)
    # Padding is masked, so any number of devices will do.
    batch_size = parallel.round_up(run.config.evaluation.batch_size, run.mesh.size)
    traced.trace(run.abstract, run.dataset.image_shape, batch_size)
    return traced
