"""How many floating-point operations a program makes: the measure of compute of studies.

By XLA's account of the program before it is optimised, so that it does not depend on the device. It
counts the body of a loop once, whatever its number of rounds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from didicm_jax.models import ScoreModel
from didicm_jax.training import programs, state
from didicm_jax.training.plan import Plan


class Passes(NamedTuple):
    """Operations for a posterior of one image."""

    once: float  # of the encoding, or of a whole classifier
    each_step: float  # of the conditioned part, at every step of a sampler; 0 for a classifier

    def of(self, steps: int) -> float:
        """Those of a sampler that asks for so many scores."""
        return self.once + steps * self.each_step


def count(program: jax.stages.Lowered) -> float:
    """Operations of a lowered program, `jax.jit(function).lower(*arguments)`."""
    costs: Any = program.cost_analysis()
    return float(costs["flops"])


def of_step(run: Plan) -> float:
    """Operations of a training step of a run, on all devices together."""
    step: Any = programs.make_step(run)
    # The program is that of one device, with its share of the batch.
    return run.mesh.size * count(step.lower(run.abstract_state(), programs.abstract_batch(run)))


def of_passes(
    graphdef: nnx.GraphDef, variables: state.Variables, image_shape: tuple[int, int, int]
) -> Passes:
    """Operations of a network for one image.

    Args:
      graphdef: its structure.
      variables: its arrays, or their shapes.
      image_shape: height, width and channels.
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
    once = count(jax.jit(encode).lower(variables, image))
    if not isinstance(nnx.merge(graphdef, *variables), ScoreModel):
        return Passes(once, 0.0)
    features = jax.eval_shape(encode, variables, image)
    label, sigma = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.int32, jnp.float32))
    return Passes(once, count(jax.jit(score).lower(variables, features, label, sigma)))
