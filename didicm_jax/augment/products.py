"""Reading pixels and table entries by matrix products, for chips that are slow at single reads.

TPUs read an element at a place that is only known at run time at a small fraction of the rate at
which they read memory, and multiply matrices at a hundred times the rate of everything else. So
what the other modules of this package read by an index is read here by a product with ones and
zeros, or with the weights of an interpolation.

A byte and a one are exact in bfloat16, and sums are kept in float32: products with ones give the
bytes themselves. Weights go in as two bfloat16 numbers that add up to 17 bits of them, so that what
is lost of a level is about a thousandth.

Shapes: B images of HxW pixels and C channels.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# Output pixels on a side of what one product makes. A larger tile multiplies more weights that are
# 0, a smaller one cuts out more windows. The 256 pixels of this one fill TPUs' lanes of 128.
_TILE = 16


def histogram(images: chex.Array) -> chex.Array:
    """Pixels per level and channel, i32[B,C,256] of u8[B,H,W,C], below 2^24 pixels."""
    high, low = _nibbles(images)
    counts = _product("bhwci,bhwcj->bcij", high, low)
    return counts.reshape(*counts.shape[:2], 256).astype(jnp.int32)


def look_up(images: chex.Array, tables: chex.Array) -> chex.Array:
    """Replaces each level by its entry: u8[B,H,W,C] and u8[B,C,256] to u8[B,H,W,C]."""
    high, low = _nibbles(images)
    squares = tables.reshape(*tables.shape[:2], 16, 16).astype(jnp.bfloat16)
    rows = _product("bhwci,bcij->bhwcj", high, squares)
    return jnp.sum(rows * low.astype(jnp.float32), axis=-1).astype(jnp.uint8)


def take(images: chex.Array, rows: chex.Array, columns: chex.Array) -> chex.Array:
    """Puts images together from rows i32[B,h] and columns i32[B,w] of others; black where outside.

    Args:
      images: u8[B,H,W,C].
      rows: which row each row of the result shows.
      columns: which column each of its columns shows.

    Returns:
      u8[B,h,w,C].
    """
    height, width = images.shape[1:3]
    taken = _product("bih,bhwc->biwc", _ones(rows, height), images.astype(jnp.bfloat16))
    taken = _product("biwc,bjw->bijc", taken.astype(jnp.bfloat16), _ones(columns, width))
    return taken.astype(jnp.uint8)


def tiles(size: int) -> tuple[int, int]:
    """How many tiles, and of how many pixels, cover an axis of so many pixels."""
    count = -(-size // _TILE)
    return count, -(-size // count)


def resample(
    images: chex.Array,
    from_y: chex.Array,
    from_x: chex.Array,
    weight: Callable[[chex.Array], chex.Array],
    reach: float,
) -> chex.Array:
    """Interpolates images at given places, tile by tile; beyond the edge, the last pixel repeats.

    The window that the places of a tile lie in is cut out by products with ones. There the value at
    a place is sum_y w_y sum_x w_x image[y,x]: a product over x, and a short sum over y.

    Args:
      images: u8[B,H,W,C].
      from_y, from_x: places f32[B,m,n,t,u] for m x n tiles of t x u pixels. Pixel centres lie on
        halves. Places outside of the image give any finite value.
      weight: of a pixel at a distance along one axis, f32[B,m,n,tu,...] to the same; 0 from 2
        pixels on.
      reach: a promise that on both axes places of neighbouring pixels, added up over both
        directions, are at most so far apart: |a| + |b| and |d| + |e| of an affine map.

    Returns:
      f32[B,m,n,t,u,C].
    """
    windows = images.astype(jnp.bfloat16)
    shape, weights = from_y.shape, []
    for places, size, equation in (
        (from_y, images.shape[1], "bmnvh,bhwc->bmnvwc"),
        (from_x, images.shape[2], "bmnvw,bmnhwc->bmnhvc"),
    ):
        # Four neighbours of the first and of the last place, and what is between.
        span = math.ceil(min(size, reach * (max(shape[3:]) - 1) + 1e-3)) + 4
        # Clipped as floats: far outside, the number would not fit an integer.
        places = places.reshape(*shape[:3], -1)  # of pixels on one axis, for the same lanes
        first = jnp.floor(jnp.min(places, axis=3) - 0.5) - 1
        first = jnp.clip(first, -2, size + 2 - span)
        pixels = first[..., None] + jnp.arange(span, dtype=jnp.float32).reshape(1, 1, 1, span)
        chosen = jnp.clip(pixels, 0, size - 1).astype(jnp.int32)
        windows = _product(equation, _ones(chosen, size), windows).astype(jnp.bfloat16)
        weights.append(weight(places[..., None] - 0.5 - pixels[:, :, :, None]))
    w_y, w_x = weights
    across = _product(
        "bmnpx,bmnyxc->bmnpyc",
        jnp.concatenate(_parts(w_x), axis=-1),
        jnp.concatenate([windows] * 2, axis=4),
    )
    return jnp.sum(w_y[..., None] * across, axis=4).reshape(*shape, -1)


def _product(equation: str, a: chex.Array, b: chex.Array) -> chex.Array:
    # As float32, for CPUs do not multiply all shapes in bfloat16. By default TPUs round what they
    # multiply to bfloat16, in which these numbers are exact, and add up in float32.
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(equation, a, b, precision=jax.lax.Precision.DEFAULT)


def _ones(places: chex.Array, size: int) -> chex.Array:
    """1 at each place and 0 elsewhere, bf16[...,size] of i32[...]; nothing where it is outside."""
    return jax.nn.one_hot(places, size, dtype=jnp.bfloat16)


def _nibbles(images: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The upper and the lower four bits of each level as ones at their places, bf16[...,16]."""
    return _ones(images >> jnp.uint8(4), 16), _ones(images & jnp.uint8(15), 16)


def _parts(x: chex.Array) -> list[chex.Array]:
    """Two bf16 arrays whose sum is f32 x to 17 bits."""
    # A mere conversion there and back would be optimised away.
    part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    rest = jax.lax.reduce_precision(x - part, exponent_bits=8, mantissa_bits=7)
    return [part.astype(jnp.bfloat16), rest.astype(jnp.bfloat16)]
