"""Operations of programs, against what is known of them on paper."""

import digits as digits_config
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.models.variables import split
from didicm_jax.training import operations, plan


def passes(name, size, **options):
    def make():
        rngs = nnx.Rngs(0)
        return models.create_model(name, num_classes=1000, image_size=size, rngs=rngs, **options)

    graphdef, variables = jax.eval_shape(lambda: split(make()))
    return operations.of_passes(graphdef, variables, (size, size, 3))


def test_a_product_of_matrices():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 7)))
    assert operations.count(jax.jit(jnp.matmul).lower(a, b)) == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        # 15.97 GMAC of the original at 224 pixels, all but its stem conditioned.
        ("didirn50", 2 * 15.97),
        # DeiT (arXiv 2012.12877) gives 4.6 GMAC.
        ("vit_s16", 2 * 4.6),
    ],
)
def test_a_pass_costs_what_its_paper_says(name, giga):
    found = passes(name, 224)
    assert found.of(1) == pytest.approx(1e9 * giga, rel=0.03)


def test_steps_repeat_what_sees_the_label_alone():
    plain, late = passes("vit_ti16", 32, depth=4), passes("didivit_ti16", 32, depth=4)
    head = passes("didivit_ti16", 32, depth=4, conditioned_blocks=0)
    assert plain.each_step == 0
    assert plain.of(8) == plain.of(1)
    assert head.each_step < 0.2 * head.once
    assert late.of(8) == late.once + 8 * late.each_step > head.of(8)


def test_a_step_of_a_run_is_about_three_passes_of_its_batch():
    """Forward, and backward for inputs and weights; all devices together, however many."""
    config = digits_config.get_config()
    config.method, config.model.name = "cross_entropy", "resnet18"
    run = plan.make_plan(config)
    assert run.mesh.size == 4
    one = operations.of_passes(run.graphdef, run.abstract, run.dataset.image_shape)
    batch = config.train.batch_size * one.of(1)
    assert 2.5 * batch < operations.of_step(run) < 4 * batch
