"""Attention and its gradient by hand, against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax.models.attention import attend

SHAPE = (2, 5, 3, 64)  # images, tokens, heads, channels


def drawn(count, dtype, scale=1.0):
    rng = np.random.default_rng(0)
    return [jnp.asarray(scale * rng.standard_normal(SHAPE), dtype) for _ in range(count)]


def reference(queries, keys, values):
    """Head by head, query by query."""
    result = np.zeros(SHAPE)
    for b, q, t in np.ndindex(*SHAPE[:3]):
        scores = np.asarray(keys[b, :, t], float) @ np.asarray(queries[b, q, t], float) / 8
        weights = np.exp(scores - scores.max())
        result[b, q, t] = weights / weights.sum() @ np.asarray(values[b, :, t], float)
    return result


# 30: scores of several hundred, whose exponentials overflow.
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_result(scale):
    inputs = drawn(3, jnp.float32, scale)
    np.testing.assert_allclose(
        jax.jit(attend)(*inputs), reference(*inputs), rtol=1e-4, atol=1e-5 * scale
    )


def test_gradient():
    """Along every direction in double precision, by finite differences of the formula."""
    with jax.enable_x64(True):
        *inputs, weights = drawn(4, jnp.float64)
        gradient = jax.jit(
            jax.grad(lambda *inputs: (attend(*inputs) * weights).sum(), argnums=(0, 1, 2))
        )(*inputs)
        rng, step = np.random.default_rng(1), 1e-5
        for place in range(3):
            direction = rng.standard_normal(SHAPE)
            ends = [
                reference(*inputs[:place], inputs[place] + sign * step * direction,
                          *inputs[place + 1 :])
                for sign in (1, -1)
            ]  # fmt: skip
            slope = ((ends[0] - ends[1]) * weights).sum() / (2 * step)
            np.testing.assert_allclose((gradient[place] * direction).sum(), slope, rtol=1e-6)


def test_bfloat16_rounds_and_no_more():
    """Under strict promotion; a digit of bfloat16 is 2^-8."""
    *inputs, weights = drawn(4, jnp.bfloat16)

    def outcome(dtype):
        cast = [x.astype(dtype) for x in inputs]
        result, backward = jax.vjp(attend, *cast)
        return [np.asarray(x, float) for x in (result, *backward(weights.astype(dtype)))]

    for coarse, fine in zip(outcome(jnp.bfloat16), outcome(jnp.float32), strict=True):
        assert 0 < np.linalg.norm(coarse - fine) < 2**-7 * np.linalg.norm(fine)
