"""The GELU in both types, its slope, and the product that computes it twice."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from scipy.stats import norm

from didicm_jax.models.gelu import gelu, gelu_product, gelu_slope

# Every number of bfloat16 between 1e-30 and 12, of both signs; by its bits, which count upwards.
BITS = np.arange(*np.array([1e-30, 12], ml_dtypes.bfloat16).view(np.uint16), dtype=np.uint16)
EVERY = np.concatenate([BITS, BITS | 0x8000]).view(ml_dtypes.bfloat16)


def exact(x):
    x = np.asarray(x, float)
    return x * norm.cdf(x), norm.cdf(x) + x * norm.pdf(x)


def test_in_float32():
    x = jnp.linspace(-6, 6, 25)
    value, slope = exact(x)
    np.testing.assert_allclose(gelu(x), value, atol=1e-6)
    np.testing.assert_allclose(gelu_slope(x), slope, atol=1e-6)


def test_in_bfloat16():
    """The exact result rounded, but for a twentieth of what is lost by that."""
    value, slope = exact(EVERY)
    ours = np.asarray(jax.jit(gelu)(EVERY)).astype(float)
    # Rounding: half of the last of 8 binary digits.
    assert np.all(np.abs(ours - value) <= (2**-8 + 1.8e-4) * np.abs(value))
    rounded = value.astype(np.float32).astype(ml_dtypes.bfloat16).astype(float)
    assert np.mean(ours == rounded) > 0.97
    np.testing.assert_allclose(gelu_slope(jnp.asarray(EVERY)), slope, atol=1e-4)


def drawn(dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((2, 7, 8), (8, 4))]


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_gradient_of_the_product(dtype, rtol):
    """Against `exact` and NumPy's products of the same numbers."""
    x, kernel = drawn(dtype)
    result, backward = jax.vjp(gelu_product, x, kernel)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(result.shape), dtype)
    d_x, d_kernel = backward(cotangent)
    wide, w, c = (np.asarray(each, float) for each in (x, kernel, cotangent))
    value, slope = exact(wide)
    wanted = value @ w, (c @ w.T) * slope, np.einsum("bnf,bnd->fd", value, c)
    for ours, reference in zip((result, d_x, d_kernel), wanted, strict=True):
        assert ours.dtype == dtype
        scale = np.abs(reference).max()
        np.testing.assert_allclose(
            np.asarray(ours, float), reference, rtol=rtol, atol=rtol * scale / 4
        )
