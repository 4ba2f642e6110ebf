"""Statistics of feature maps and affine maps of them, with the fewest passes over the maps.

A normalisation is an affine map per channel, or per image and channel, whose factors follow from
the moments of what it normalises. All that touches whole maps is here: one pass for the moments,
one for the affine maps with what follows them, and backward one for the sums that their gradients
need and one for the gradient of the map. What stands between is small, and JAX differentiates it.
Of the maps themselves only what came out of a convolution is kept for the backward pass, in its own
type: what is computed from it in float32 is computed anew.

Shape symbols: `B` images, `H`, `W` the size of a feature map, `C` its channels.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.models.placement import whole

_Function = Callable[[chex.Array], chex.Array]


class Moments(NamedTuple):
    """Of a feature map, float32 `[B, C]`, or `[1, C]` of all images together."""

    mean: chex.Array
    mean_square: chex.Array


class Scaled(NamedTuple):
    """A feature map that is still to become `scale * x + bias`; where these are None, `x`.

    x: `[B, H, W, C]`.
    scale, bias: float32 `[B, C]` or `[1, C]`.
    """

    x: chex.Array
    scale: chex.Array | None = None
    bias: chex.Array | None = None


def moments(x: chex.Array, *, per_image: bool) -> Moments:
    """The moments of `[B, H, W, C]`, from one pass."""
    return _moments(x, (1, 2) if per_image else (0, 1, 2))


def moments_of_product(x: chex.Array, kernel: chex.Array) -> Moments:
    """The moments of `x @ kernel`, from one pass over x: `[B, H, W, C]`, `[C, D]` to `[1, D]`.

    They follow from the sums of x and of the products of its channels. Where C is a small part of
    D, that saves a pass over the larger map, and another backward. Of bfloat16 the products are
    exact; of float32 they are what the device makes of them.
    """
    sums, products = _second_moments(x)
    count = x.size // x.shape[3]
    exact = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    square = (exact(products / count, kernel) * kernel).sum(0)
    return Moments(exact(sums[None] / count, kernel), square[None])


def same(x: chex.Array) -> chex.Array:
    """For `apply` and `join`: no function."""
    return x


def apply(function: Callable[[chex.Array], chex.Array], each: Scaled) -> chex.Array:
    """`function(scale * x + bias)`, `[B, H, W, C]` in the type of x.

    Args:
      function: of a float32 array, element by element. One that is known by its name, no lambda:
        JAX tells functions apart by what they are.
      each: the map.
    """
    return _apply(function, _varying(each))


def join(
    function: Callable[[chex.Array], chex.Array],
    residual: Scaled,
    shortcut: Scaled,
) -> chex.Array:
    """`relu(function(residual) + shortcut)`, `[B, H, W, C]` in the type of the residual's x.

    Args:
      function: as that of `apply`.
      residual: a map with a bias, and with a scale unless it is a part of what gave x.
      shortcut: one of the same shape, with or without.
    """
    return _join(function, _varying(residual), _varying(shortcut))


def _varying(each: Scaled) -> Scaled:
    """With factors that vary over the devices if the map does: each has a gradient of its own."""
    axes = jax.typeof(each.x).manual_axis_type.varying

    def cast(factor: chex.Array) -> chex.Array:
        missing = tuple(axes - jax.typeof(factor).manual_axis_type.varying)
        return jax.lax.pcast(factor, missing, to="varying") if missing else factor

    return Scaled(each.x, *jax.tree.map(cast, each[1:]))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _moments(x: chex.Array, axes: tuple[int, ...]) -> Moments:
    wide = x.astype(jnp.float32)
    sums = wide.sum(axes), jnp.square(wide).sum(axes)
    count = _count(x, axes)
    return Moments(*(each.reshape(-1, x.shape[-1]) / count for each in sums))


def _moments_forward(x: chex.Array, axes: tuple[int, ...]) -> tuple[Moments, chex.Array]:
    return _moments(x, axes), x


def _moments_backward(axes: tuple[int, ...], x: chex.Array, gradient: Moments) -> tuple[chex.Array]:
    mean, mean_square = (_over_pixels(each) / _count(x, axes) for each in gradient)
    return ((mean + 2 * x.astype(mean.dtype) * mean_square).astype(x.dtype),)


_moments.defvjp(_moments_forward, _moments_backward)


@jax.custom_vjp
def _second_moments(x: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Sums `[C]` and sums of products `[C, C]` of all pixels of all images."""
    products = jnp.einsum(
        "bhwc,bhwd->cd", x, x, preferred_element_type=jnp.float32, out_sharding=whole(x)
    )
    return x.astype(jnp.float32).sum((0, 1, 2)), products


def _second_moments_forward(x: chex.Array) -> tuple[Any, chex.Array]:
    return _second_moments(x), x


def _second_moments_backward(
    x: chex.Array, gradient: tuple[chex.Array, chex.Array]
) -> tuple[chex.Array]:
    sums, products = gradient
    along = jnp.einsum("bhwc,cd->bhwd", x, (products + products.T).astype(x.dtype))
    # In the type of x, as libraries add a bias to a product without a pass of its own.
    return (along + sums.astype(x.dtype)[None, None, None],)


_second_moments.defvjp(_second_moments_forward, _second_moments_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(function: _Function, each: Scaled) -> chex.Array:
    return function(_scaled(each)).astype(each.x.dtype)


def _apply_forward(function: _Function, each: Scaled) -> tuple[chex.Array, Scaled]:
    return _apply(function, each), each


def _apply_backward(function: _Function, each: Scaled, gradient: chex.Array) -> tuple[Scaled]:
    each = _anew(each)
    sums = _sums(each, _before(function, each, gradient))
    each = _anew(each)
    return (Scaled(_map(each, _before(function, each, gradient)), *sums),)


_apply.defvjp(_apply_forward, _apply_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _join(function: _Function, residual: Scaled, shortcut: Scaled) -> chex.Array:
    # Without this XLA computes the shortcut, which is in memory, once more, in more bits.
    shortcut = jax.lax.optimization_barrier(shortcut)
    joined = jax.nn.relu(function(_scaled(residual)) + _scaled(shortcut))
    return joined.astype(residual.x.dtype)


def _join_forward(function: _Function, residual: Scaled, shortcut: Scaled) -> tuple[Any, Any]:
    result = _join(function, residual, shortcut)
    return result, (result, residual, shortcut)


def _join_backward(function: _Function, kept: Any, gradient: chex.Array) -> tuple[Scaled, Scaled]:
    result, residual, shortcut = kept
    # Zeros or the gradient itself: exact in its type. Without the barrier XLA asks what came before
    # the ReLU, and keeps that too.
    gradient = jnp.where(jax.lax.optimization_barrier(result) > 0, gradient, 0)
    residual, shortcut = _anew(residual), _anew(shortcut)
    sums = (
        _sums(residual, _before(function, residual, gradient)),
        _sums(shortcut, gradient.astype(jnp.float32)),
    )
    # Written in the pass of the sums, it is all that the next one reads beside the residual.
    gradient, sums = jax.lax.optimization_barrier((gradient, sums))
    residual = _anew(residual)
    return (
        Scaled(_map(residual, _before(function, residual, gradient)), *sums[0]),
        Scaled(_map(shortcut, gradient.astype(jnp.float32)), *sums[1]),
    )


_join.defvjp(_join_forward, _join_backward)


def _anew(each: Scaled) -> Scaled:
    """The same, but what is computed from it is computed there: XLA keeps nothing for it."""
    return Scaled(each.x, *jax.lax.optimization_barrier(each[1:]))


def _before(function: _Function, each: Scaled, gradient: chex.Array) -> chex.Array:
    """The gradient of what `function` is applied to, in float32."""
    result, transpose = jax.vjp(function, _scaled(each))
    return transpose(gradient.astype(result.dtype))[0]


def _scaled(each: Scaled) -> chex.Array:
    wide = each.x.astype(jnp.float32)
    if each.scale is not None:
        wide = _over_pixels(each.scale) * wide
    return wide if each.bias is None else wide + _over_pixels(each.bias)


def _sums(each: Scaled, gradient: chex.Array) -> tuple[chex.Array | None, chex.Array | None]:
    """The gradients of scale and bias, of that of the scaled map."""

    def summed(factor: chex.Array | None, values: chex.Array) -> chex.Array | None:
        if factor is None:
            return None
        return values.sum((0, 1, 2) if len(factor) == 1 else (1, 2)).reshape(factor.shape)

    of_scale = summed(each.scale, gradient * each.x.astype(jnp.float32))
    return of_scale, summed(each.bias, gradient)


def _map(each: Scaled, gradient: chex.Array) -> chex.Array:
    """The gradient of x, of that of the scaled map."""
    scaled = gradient if each.scale is None else _over_pixels(each.scale) * gradient
    return scaled.astype(each.x.dtype)


def _over_pixels(factor: chex.Array) -> chex.Array:
    return factor[:, None, None, :]


def _count(x: chex.Array, axes: tuple[int, ...]) -> int:
    return math.prod(x.shape[axis] for axis in axes)
