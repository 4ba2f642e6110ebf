"""A trained network with its sampler as one file, for programs that have jax and not this package.

Shapes: B images of HxW pixels and C channels, K classes.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import export

from didicm_jax.inference import program, sweep
from didicm_jax.inference.network import Network
from didicm_jax.parallel import one_device

PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(run: Network) -> bytes:
    """StableHLO of the map from images to posteriors, weights inside, for all of `PLATFORMS`.

    `jax.export.deserialize(data).call(images)` takes u8[B,H,W,C] of any B, at the size of the run,
    and gives f32[B,K], as evaluation does: what a sampler draws is a function of the run's seed and
    of the place in the batch.

    Args:
      run: with the sampler to use in its config.
    """
    mesh = one_device()
    answer = program.create(run.config, run.graphdef, run.description.num_classes, mesh)
    variables = jax.device_get(run.variables)

    def posteriors(images: chex.Array) -> chex.Array:
        index = jnp.arange(images.shape[0], dtype=jnp.int32)
        return answer.apply(variables, {"image": images, "index": index}).probs

    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *run.description.image_shape), jnp.uint8)
    with jax.set_mesh(mesh):  # under one of the caller's the file would ask for as many devices
        exported = export.export(jax.jit(posteriors), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


def describe(run: Network) -> dict[str, Any]:
    """What a program must know to use the file: the images it takes and the classes it names."""
    return {
        "image_shape": list(run.description.image_shape),
        "image_dtype": "uint8",
        "eval_crop": run.eval_crop,
        "class_names": list(run.description.class_names),
        "step": run.step,
    } | sweep.describe(run.config)
