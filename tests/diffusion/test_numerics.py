"""The chain's arithmetic in float32 against the same formulas in float64, and at its edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax.diffusion import numerics

SIGMAS = np.asarray([1e-12, 1e-6, 1e-3, 0.5, 6.9, 16.0, 80.0])


def float32(x):
    return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize("k", [2, 10, 100_000])
def test_logarithms_keep_their_digits_at_any_noise(k):
    redrawn = -np.expm1(-SIGMAS)
    np.testing.assert_allclose(numerics.redrawn(float32(SIGMAS)), redrawn, rtol=1e-6)
    found = numerics.log_share(float32(SIGMAS), k)
    np.testing.assert_allclose(found, np.log(redrawn / k), rtol=1e-6)
    advantage = np.log1p(k / np.expm1(SIGMAS))
    found = numerics.log_advantage(float32(SIGMAS), k)
    np.testing.assert_allclose(found, advantage, rtol=1e-4, atol=1e-30)
    log_clean = np.log(np.asarray([[0.9, 0.1, 1e-30]]))
    expected = np.log(np.exp(-SIGMAS)[:, None] * np.exp(log_clean) + redrawn[:, None] / 3)
    found = numerics.log_marginal(float32(log_clean), float32(SIGMAS)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 1e-45, 100.0, 1e30])
def test_beyond_the_floats_logarithms_and_their_gradients_are_finite(sigma):
    for log in (numerics.log_share, numerics.log_advantage):
        value, grad = jax.value_and_grad(lambda x, log=log: log(x, 10))(float32(sigma))
        assert np.isfinite(value)
        assert np.isfinite(grad)
    log_clean = float32([[0.0, -jnp.inf]])
    assert np.isfinite(numerics.log_marginal(log_clean, float32([[sigma]]))).all()


def test_the_divergence_is_its_formula_in_float64():
    log_s, log_r = np.meshgrid(np.linspace(-30, 30, 41), np.linspace(-30, 30, 37))
    found = numerics.bregman(float32(log_s), float32(log_r))
    # Of the numbers that float32 makes of the logarithms.
    log_s, log_r = (np.asarray(float32(x), np.float64) for x in (log_s, log_r))
    excess = log_s - log_r
    expected = np.exp(log_r) * (np.expm1(excess) - excess)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-30)


def test_steps_that_leave_the_simplex_come_back():
    found = numerics.onto_simplex(float32([[1.5, -0.5, 0.0], [0.5, 0.6, -0.1]]))
    np.testing.assert_allclose(found, [[1, 0, 0], [5 / 11, 6 / 11, 0]], rtol=1e-6)
