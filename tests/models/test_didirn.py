"""DiDiRN on small networks: what late conditioning keeps of an image and what it adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from didicm_jax import models
from didicm_jax.models import conditioning


@pytest.mark.parametrize("stages", [4, 3, 2, 1, 0])
def test_features_hold_what_the_stages_leave(make, stages):
    model = make(conditioned_stages=stages)
    features = jax.eval_shape(model.encode, jnp.zeros((3, 16, 16, 3)))
    if stages == 0:
        assert isinstance(features, models.PooledFeatures)
        assert features.pooled.shape == (3, 64)
    else:
        side, channels = 16 // 2 ** (4 - stages), 8 * 2 ** (4 - stages)
        assert features.residual.shape == (3, side, side, channels)
        assert features.shortcut.shape == (3, side, side, channels)


# By hand, width 1/8, 5 classes: a conditioned block of C channels has Linear(128, C) and
# GroupNorm(C), 131 C more than a plain one; the last stage has two blocks. The head has two of
# Linear(128, 192), Linear(64, 64) twice. Embedding: Linear(256, 128), Linear(128, 128), 5 x 128.
@pytest.mark.parametrize(
    ("stages", "extra"),
    [
        (4, 131 * (8 + 16 + 32 + 2 * 64)),
        (3, 131 * (16 + 32 + 2 * 64)),
        (2, 131 * (32 + 2 * 64)),
        (1, 131 * 2 * 64),
        (0, 2 * (129 * 192 + 2 * 65 * 64)),
    ],
)
def test_parameters_of_late_conditioning(make, stages, extra):
    def count(model):
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    embedding = 257 * 128 + 129 * 128 + 5 * 128
    score, plain = make(conditioned_stages=stages), make(models.ResNet)
    assert count(score) - count(plain) == embedding + extra


def test_sinusoids():
    sigma = np.array([0.0, 1e-3, 2.0])
    frequencies = 10_000.0 ** -(np.arange(128) / 128)
    expected = np.concatenate(
        [np.cos(sigma[:, None] * frequencies), np.sin(sigma[:, None] * frequencies)], axis=1
    )
    ours = conditioning.sinusoids(jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
