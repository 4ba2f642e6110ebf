"""Pooling of feature maps `[B, H, W, C]`."""

import chex
import jax
import jax.numpy as jnp
from flax import nnx


@jax.custom_vjp
def max_pool(x: chex.Array) -> chex.Array:
    """PyTorch's 3x3 max pool with stride 2, padded by 1 with -inf."""
    return _max_pool(x)


def _max_pool(x: chex.Array) -> chex.Array:
    pooled = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    # Else GPUs keep it in float32, in which they compare.
    return jax.lax.optimization_barrier(pooled)


def _max_pool_forward(x: chex.Array) -> tuple[chex.Array, chex.Array]:
    return _max_pool(x), x


def _max_pool_backward(x: chex.Array, gradient: chex.Array) -> tuple[chex.Array]:
    """XLA's own operation, but for GPUs, where it is several passes through large arrays."""

    def scatter(x: chex.Array, gradient: chex.Array) -> tuple[chex.Array]:
        return jax.vjp(_max_pool, x)[1](gradient)

    return jax.lax.platform_dependent(x, gradient, cuda=_gather, default=scatter)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _gather(x: chex.Array, gradient: chex.Array) -> tuple[chex.Array]:
    """For each pixel the gradients of the windows whose first largest value it is."""
    height, width = gradient.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    best, place = None, jnp.zeros(gradient.shape, jnp.int8)
    for index in range(9):
        top, left = divmod(index, 3)
        value = padded[:, top : top + 2 * height - 1 : 2, left : left + 2 * width - 1 : 2]
        if best is not None:
            place = jnp.where(value > best, jnp.int8(index), place)
        best = value if best is None else jnp.maximum(value, best)
    taps = [jnp.where(place == index, gradient, 0) for index in range(9)]
    rows = [_spread(taps[column::3], x.shape[1], axis=1) for column in range(3)]
    return (_spread(rows, x.shape[2], axis=2),)


def _spread(taps: list[chex.Array], size: int, axis: int) -> chex.Array:
    """Adds up along an axis what windows of three pixels give to each, two apart.

    Window p gives the first to pixel 2p - 1, the second to 2p and the third to 2p + 1.
    """
    first, second, third = taps
    after = jax.lax.slice_in_dim(first, 1, None, axis=axis)
    pads = [(0, int(dim == axis)) for dim in range(first.ndim)]
    both = jnp.stack([second, third + jnp.pad(after, pads)], axis + 1)
    shape = list(first.shape)
    shape[axis] *= 2
    return jax.lax.slice_in_dim(both.reshape(shape), 0, size, axis=axis)


def global_average(x: chex.Array) -> chex.Array:
    """The mean over the feature map, `[B, H, W, C]` to float32 `[B, C]`."""
    return x.astype(jnp.float32).mean(axis=(1, 2))
