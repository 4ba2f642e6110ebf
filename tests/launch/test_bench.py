"""What the benchmarks of sampling and training promise, in operations: no machine is timed."""

import jax
import jax.numpy as jnp
import pytest
from benchmarks import networks
from flax import nnx

from didicm_jax import models
from didicm_jax.models.variables import split

STEPS = 8
BATCH = 2


def cost(name, call, *shapes, **options):
    """Operations of a part of a network at 224 pixels, before any compilation."""

    def make():
        return models.create_model(
            name, num_classes=1000, image_size=224, rngs=nnx.Rngs(0), **options
        )

    graphdef, variables = jax.eval_shape(lambda: split(make()))

    def part(variables, *arrays):
        model = nnx.merge(graphdef, *variables)
        model.eval()
        return call(model, *arrays)

    lowered = jax.jit(part).lower(variables, *shapes)
    return lowered.cost_analysis()["flops"], jax.eval_shape(part, variables, *shapes)


@pytest.mark.parametrize("family", ["didivit_s16", "didirn50"])
def test_eight_steps_cost_a_pass_or_two(family):
    (family,) = networks.chosen([family])
    images = jax.ShapeDtypeStruct((BATCH, 224, 224, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    sigma = jax.ShapeDtypeStruct((BATCH,), jnp.float32)
    plain, _ = cost(family.plain, lambda model, images: model(images), images)
    for late in family.variants:
        once, features = cost(
            family.score_model, lambda model, images: model.encode(images), images, **late.options
        )
        each, _ = cost(
            family.score_model,
            lambda model, *inputs: model.score(*inputs),
            *(features, labels, sigma),
            **late.options,
        )
        assert plain < once + STEPS * each
        if late.sampling is not None:
            assert once + STEPS * each <= late.sampling * plain
