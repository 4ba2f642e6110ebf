"""What the benchmarks of sampling and training promise, in operations: no machine is timed."""

import jax
import pytest
from benchmarks import networks
from flax import nnx

from didicm_jax import models
from didicm_jax.models.variables import split
from didicm_jax.training import operations

STEPS = 8


def passes(name, **options):
    """Operations of a network at 224 pixels, before any compilation."""

    def make():
        rngs = nnx.Rngs(0)
        return models.create_model(name, num_classes=1000, image_size=224, rngs=rngs, **options)

    return operations.of_passes(*jax.eval_shape(lambda: split(make())), (224, 224, 3))


@pytest.mark.parametrize("family", ["didivit_s16", "didirn50"])
def test_eight_steps_cost_a_pass_or_two(family):
    (family,) = (each for each in networks.FAMILIES if each.score_model == family)
    plain = passes(family.plain).of(1)
    for late in family.variants:
        eight = passes(family.score_model, **late.options).of(STEPS)
        assert plain < eight
        if late.sampling is not None:
            assert eight <= late.sampling * plain
