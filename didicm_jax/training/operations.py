"""How many floating-point operations a program makes: the measure of compute.

By XLA's account of the program before it is optimised, and always in the form that accelerators get
(on a CPU some convolutions are written otherwise), so that it does not depend on the device. Every
operation counts, those of augmentation and optimizer too, though nearly all are of matrix products
and convolutions. The body of a loop counts once, whatever its number of rounds: of a training step
that is some of RandAugment, for micro-batches are counted as one batch. What is computed
twice to save memory (`train.remat`) counts once, so the operations are those of the model.
"""

import copy
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax import parallel
from didicm_jax.errors import UserError
from didicm_jax.models import ScoreModel
from didicm_jax.training import programs, state
from didicm_jax.training.plan import Plan


class Passes(NamedTuple):
    """Operations for a posterior of one image."""

    once: float  # of the encoding, or of a whole classifier
    each_step: float  # of the conditioned part, at every step of a sampler; 0 for a classifier

    def of(self, steps: int, views: int = 1, chains: int = 1) -> float:
        """Those of a sampler of so many steps, which asks about each view once at least."""
        return views * self.once + max(steps, views) * chains * self.each_step


def cpu() -> jax.Device:
    """The device whose compiler counts, wherever the program is to run.

    Raises:
      UserError: JAX was told to do without.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise UserError(
            "expected JAX to have the CPU too, which counts operations, found none; name it in "
            "JAX_PLATFORMS, such as cuda,cpu"
        ) from error


def count(program: jax.stages.Traced) -> float:
    """Operations of a traced program, `jax.jit(function).trace(*arguments)`.

    Raises:
      UserError: as `cpu`, which a program that names its devices must be on.
    """
    with jax.default_device(cpu()):
        costs: Any = program.lower(lowering_platforms=("tpu",)).cost_analysis()
    return float(costs["flops"])


def of_step(run: Plan) -> float:
    """Operations of a training step of a run, as if one device made it of the whole batch.

    Raises:
      UserError: as `cpu`.
    """
    config = copy.deepcopy(run.config)
    config.train.accumulate = 1  # else the network would be the body of a loop
    config.train.remat = "none"
    # On TPUs products read pixels, which would count there alone.
    policy = replace(run.policy, gathers=True)
    whole = replace(run, config=config, policy=policy, mesh=parallel.make_mesh([cpu()]))
    step: Any = programs.make_step(whole)
    return count(step.trace(whole.abstract_state(), programs.abstract_batch(whole)))


def of_passes(
    graphdef: nnx.GraphDef, variables: state.Variables, image_shape: tuple[int, int, int]
) -> Passes:
    """Operations of a network for one image.

    Args:
      graphdef: its structure.
      variables: its arrays, or their shapes.
      image_shape: height, width and channels.

    Raises:
      UserError: as `cpu`.
    """

    def network(variables: state.Variables) -> Any:
        model = nnx.merge(graphdef, *variables)
        model.eval()
        return model

    def encode(variables: state.Variables, images: Any) -> Any:
        model = network(variables)
        return model.encode(images) if isinstance(model, ScoreModel) else model(images)

    def score(variables: state.Variables, *inputs: Any) -> Any:
        return network(variables).score(*inputs)

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    once = count(jax.jit(encode).trace(variables, image))
    if not isinstance(nnx.merge(graphdef, *variables), ScoreModel):
        return Passes(once, 0.0)
    features = jax.eval_shape(encode, variables, image)
    label, sigma = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.int32, jnp.float32))
    return Passes(once, count(jax.jit(score).trace(variables, features, label, sigma)))
