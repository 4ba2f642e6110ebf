"""Operations of programs, against what is known of them on paper."""

import dataclasses

import digits as digits_config
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.errors import UserError
from didicm_jax.models.convolution import convolve
from didicm_jax.models.variables import split
from didicm_jax.training import operations, plan
from tests import shallow

IMAGE_AND_KERNEL = (2, 16, 16, 32), (3, 3, 32, 64)
NHWC = ("NHWC", "HWIO", "NHWC")


def passes(name, size, **options):
    def make():
        rngs = nnx.Rngs(0)
        return models.create_model(name, num_classes=1000, image_size=size, rngs=rngs, **options)

    graphdef, variables = jax.eval_shape(lambda: split(make()))
    return operations.of_passes(graphdef, variables, (size, size, 3))


def test_a_product_of_matrices():
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 7)))
    assert operations.count(jax.jit(jnp.matmul).trace(a, b)) == 2 * 3 * 5 * 7


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


def test_views_are_encoded_each_and_chains_ask_each():
    found = operations.Passes(once=100.0, each_step=10.0)
    assert found.of(8, views=4) == 4 * 100 + 8 * 10
    assert found.of(1, views=4) == 4 * 110  # one shot about each
    assert found.of(2, chains=16) == 100 + 2 * 16 * 10


@pytest.fixture
def config():
    config = digits_config.get_config()
    config.method = "cross_entropy"
    config.model.update(name="resnet4", width=1.0)  # few operations to trace, and dear ones
    with shallow.registered():
        yield config


def test_a_step_of_a_run_is_about_three_passes_of_its_batch(config):
    """Forward, and backward for inputs and weights; all devices together, however many."""
    run = plan.make_plan(config)
    assert run.mesh.size == 4
    one = operations.of_passes(run.graphdef, run.abstract, run.dataset.image_shape)
    batch = config.train.batch_size * one.of(1)
    found = operations.of_step(run)
    assert 2.5 * batch < found < 4 * batch
    # However the devices read the pixels of what is moved.
    policy = dataclasses.replace(run.policy, gathers=False)
    assert operations.of_step(dataclasses.replace(run, policy=policy)) == found


def test_micro_batches_and_what_is_computed_again_count_once(config):
    config.model.update(name="vit_ti4", width=0.3333, depth=1, stem="didirn")
    whole = operations.of_step(plan.make_plan(config))
    config.train.accumulate, config.train.remat = 4, "blocks"
    assert operations.of_step(plan.make_plan(config)) == whole


def test_convolutions_count_as_accelerators_make_them():
    """Three products of the same size, not the tiles that are faster on a CPU."""
    image, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in IMAGE_AND_KERNEL)

    def loss(image, kernel):
        return jnp.sum(convolve(image, kernel, (1, 1), ((1, 1),) * 2, dimension_numbers=NHWC) ** 2)

    valid = (16 * 3 - 2) ** 2  # pairs of a pixel and a weight of the kernel, without the padding
    product = 2 * 2 * valid * 32 * 64
    found = operations.count(jax.jit(jax.grad(loss, (0, 1))).trace(image, kernel))
    assert found == pytest.approx(3 * product, rel=0.01)


def test_without_a_cpu_it_says_so(monkeypatch):
    def none(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", none)
    a = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    with pytest.raises(UserError, match="name it in JAX_PLATFORMS, such as cuda,cpu"):
        operations.count(jax.jit(jnp.matmul).trace(a, a))
