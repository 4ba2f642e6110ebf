"""Blocks that are computed again for the backward pass: the same numbers, fewer kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.config import table
from didicm_jax.models.variables import split

REMAT = table.BY_KEY["train.remat"].check.options


def loss_of(graphdef, remat, params, stats, images):
    model = nnx.merge(graphdef, params, stats)
    model.train()
    model.set_attributes(remat=remat)
    inputs = (images,)
    if isinstance(model, models.ScoreModel):
        inputs = (images, jnp.asarray([4, 0, 2], jnp.int32), jnp.asarray([1e-3, 0.4, 6.9]))
    return (model(*inputs) ** 2).mean(), split(model)[1].stats


@pytest.fixture(
    params=[
        (models.DiDiRN, {"conditioned_stages": 2}),
        # Plain blocks alone; the network above has both kinds.
        pytest.param((models.ResNet, {}), marks=pytest.mark.slow),
        (models.DiDiViT, {"conditioned_blocks": 1}),
    ],
    ids=lambda param: param[0].__name__,
)
def loss(request, make):
    """(remat) -> (params -> loss and statistics), and the parameters."""
    kind, options = request.param
    graphdef, variables = split(make(kind, **options))
    images = jnp.asarray(np.random.default_rng(1).standard_normal((3, 16, 16, 3)), jnp.float32)
    return (
        lambda remat: lambda params: loss_of(graphdef, remat, params, variables.stats, images),
        variables.params,
    )


def test_loss_statistics_and_gradient_are_the_same(loss):
    """To rounding: XLA fuses the two differently. Statistics that moved twice would be far off."""
    function, params = loss

    def step(remat):
        return jax.jit(jax.value_and_grad(function(remat), has_aux=True))(params)

    (value, stats), gradient = step("none")
    (again, stats_again), gradient_again = step("blocks")
    np.testing.assert_allclose(again, value, rtol=1e-6)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, stats_again, stats)
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(gradient))
    # Sums of a gradient cancel, and how they round is the machine's: 1.4e-6 was seen.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=4e-6 * scale)
    jax.tree.map(close, gradient_again, gradient)


def test_less_is_kept_between_the_passes(loss):
    function, params = loss

    def kept(remat):
        _, backward, _ = jax.eval_shape(
            lambda params: jax.vjp(function(remat), params, has_aux=True), params
        )
        shapes = jax.tree.leaves(backward)
        return sum(x.size for x in shapes) - sum(x.size for x in jax.tree.leaves(params))

    everything, *less = (kept(remat) for remat in ("none", "dots_saveable", "blocks"))
    assert max(less) < 0.8 * everything
    assert less[1] <= less[0]


def test_every_choice_of_the_setting_is_known(make):
    model = make(models.ViT)
    for remat in REMAT:
        model.set_attributes(remat=remat)
        assert jax.eval_shape(model, jnp.zeros((2, 16, 16, 3))).shape == (2, 5)
