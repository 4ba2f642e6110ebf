"""What moves pixels: mirror images, shifts, and affine warps as PIL computes them.

Shapes: B images of HxW pixels and C channels.
"""

import math
from collections.abc import Sequence
from functools import partial

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment import products
from didicm_jax.augment.checks import by_device, check


def random_flip(keys: chex.PRNGKey, images: chex.Array) -> chex.Array:
    """Mirrors each image left to right with probability 1/2: u8[B,H,W,C] to the same."""
    check(keys, images)
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1, :], images)


def shift_crop(
    keys: chex.PRNGKey, images: chex.Array, padding: int, *, gathers: bool = True
) -> chex.Array:
    """Pads each image with `padding` zero pixels and crops the original size at random.

    The offsets are uniform on {0..2·padding}, vertical and horizontal independent, so the content
    moves by up to `padding` pixels each way (He et al. 2016, section 4.2, for CIFAR-10 with 4).

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      padding: pixels on each side, ≥ 0.
      gathers: read by an index; else by products, for TPUs. The result is the same.

    Returns:
      u8[B,H,W,C].
    """
    check(keys, images)
    if padding < 0:
        raise ValueError(f"expected padding ≥ 0, found {padding}")
    return by_device(partial(_shifted, padding, gathers), images, keys)


def _shifted(padding: int, gathers: bool, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
    def draw(key: chex.PRNGKey) -> chex.Array:
        return jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)

    offsets = jax.vmap(draw)(keys)
    if not gathers:
        rows, columns = (
            offsets[:, k, None] - padding + jnp.arange(size, dtype=jnp.int32)[None, :]
            for k, size in enumerate(images.shape[1:3])
        )
        return products.take(images, rows, columns)
    margin = (padding, padding)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))

    def crop(offset: chex.Array, image: chex.Array) -> chex.Array:
        return jax.lax.dynamic_slice(image, (*offset, jnp.int32(0)), images.shape[1:])

    return jax.vmap(crop)(offsets, padded)


def warp(
    images: chex.Array,
    matrices: chex.Array,
    cubic: chex.Array,
    fill: Sequence[int],
    *,
    one_axis: bool = False,
    gathers: bool = True,
    reach: float = math.inf,
) -> chex.Array:
    """Affine warp of each image, as PIL's `Image.transform(size, AFFINE, ...)`.

    With (a, b, c, d, e, f) of the matrix, the pixel centre (x, y) of the result shows the place
    (a x + b y + c, d x + e y + f) of the image. Coordinates are in pixels from the upper left
    corner, so pixel centres lie on halves. Places outside of the image get the fill colour.

    Args:
      images: u8[B,H,W,C], C ≤ 4.
      matrices: f32[B,6].
      cubic: bool[B], bicubic (PIL's, a = -1) where true, else bilinear.
      fill: C levels in 0..255.
      one_axis: a promise that each matrix has a = 1, b = c = 0 or d = f = 0, e = 1 (shears and
        moves along an axis). Then 4 neighbours of each pixel are read rather than 16.
      gathers: read neighbours by an index; else by products, for TPUs. Sums are then rounded in
        another order, so a level may differ by one.
      reach: a promise that |a| + |b| and |d| + |e| are at most so much. The products are of
        smaller matrices for it.

    Returns:
      u8[B,H,W,C], truncated towards 0 as PIL does.

    Source: Pillow, src/libImaging/Geometry.c.
    """
    chex.assert_rank([images, matrices, cubic], [4, 2, 1])
    chex.assert_type([images, matrices, cubic], [jnp.uint8, jnp.float32, jnp.bool_])
    batch, channels = images.shape[0], images.shape[-1]
    chex.assert_shape([matrices, cubic], [(batch, 6), (batch,)])
    if channels > 4 or len(fill) != channels:
        raise ValueError(f"expected up to 4 channels and a level for each, found {images.shape}")
    ours = partial(_by_gathers, fill, one_axis) if gathers else partial(_by_products, fill, reach)
    return by_device(ours, images, matrices, cubic)


def _by_gathers(
    fill: Sequence[int],
    one_axis: bool,
    images: chex.Array,
    matrices: chex.Array,
    cubic: chex.Array,
) -> chex.Array:
    batch, height, width, channels = images.shape
    # Pixels in one flat axis, and all channels of a pixel in one word: a neighbour is one gather.
    shifts = [jnp.uint32(8 * k) for k in range(channels)]
    words = jnp.zeros((batch, height, width), jnp.uint32)
    for k, shift in enumerate(shifts):
        words = words | (images[..., k].astype(jnp.uint32) << shift)
    words = words.reshape(-1)
    first_word = (height * width * jnp.arange(batch, dtype=jnp.int32))[:, None]
    pixel = jnp.arange(height * width, dtype=jnp.int32)[None, :]
    x = (pixel % width).astype(jnp.float32) + 0.5
    y = (pixel // width).astype(jnp.float32) + 0.5
    from_x, from_y = _places(matrices, x, y)
    inside = _inside(from_x, width) & _inside(from_y, height)
    d, e, f = (matrices[:, k, None] for k in (3, 4, 5))
    sideways = (d == 0) & (e == 1) & (f == 0)

    def add(tap: chex.Array, totals: list[chex.Array]) -> list[chex.Array]:
        # The neighbour's place in the 4x4 around the pixel, where (1, 1) is at or before it.
        row, column = (
            (jnp.where(sideways, 1, tap), jnp.where(sideways, tap, 1))
            if one_axis
            else (tap // 4, tap % 4)
        )
        row, row_weight = _neighbour(from_y, row, height, cubic[:, None])
        column, column_weight = _neighbour(from_x, column, width, cubic[:, None])
        found = words.at[first_word + row * width + column].get(mode="promise_in_bounds")
        weight = row_weight * column_weight
        return [
            total + weight * ((found >> shift) & jnp.uint32(255)).astype(jnp.float32)
            for total, shift in zip(totals, shifts, strict=True)
        ]

    # A loop rather than a sum over neighbours written out: that one XLA fuses badly on CPU, where
    # it takes three times as long.
    totals = jax.lax.fori_loop(0, 4 if one_axis else 16, add, [jnp.zeros_like(from_x)] * channels)
    return _levels(totals, inside, fill).reshape(images.shape)


def _by_products(
    fill: Sequence[int],
    reach: float,
    images: chex.Array,
    matrices: chex.Array,
    cubic: chex.Array,
) -> chex.Array:
    batch, height, width, channels = images.shape
    (down, tall), (right, wide) = products.tiles(height), products.tiles(width)
    if not math.isfinite(reach):  # a tile may then show all of the image, so let there be one
        (down, tall), (right, wide) = (1, height), (1, width)
    y = jnp.arange(down * tall, dtype=jnp.float32).reshape(1, down, 1, tall, 1) + 0.5
    x = jnp.arange(right * wide, dtype=jnp.float32).reshape(1, 1, right, 1, wide) + 0.5
    from_x, from_y = _places(matrices, x, y)
    inside = _inside(from_x, width) & _inside(from_y, height)
    smooth = cubic.reshape(batch, *[1] * 4)

    def weight(distance: chex.Array) -> chex.Array:
        t = jnp.abs(distance)
        return jnp.where(t < 2, _weight(t, smooth), 0.0)

    totals = products.resample(images, from_y, from_x, weight, reach)
    levels = _levels([totals[..., k] for k in range(channels)], inside, fill)
    whole = levels.transpose(0, 1, 3, 2, 4, 5).reshape(batch, down * tall, right * wide, channels)
    return whole[:, :height, :width]


def _places(matrices: chex.Array, x: chex.Array, y: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Where in the image the pixel centres (x, y) come from: x and y f32[B,...]."""
    ones = (1,) * (x.ndim - 1)
    a, b, c, d, e, f = (matrices[:, k].reshape(-1, *ones) for k in range(6))
    return a * x + b * y + c, d * x + e * y + f


def _inside(place: chex.Array, size: int) -> chex.Array:
    return (place >= 0) & (place < size)


def _levels(totals: Sequence[chex.Array], inside: chex.Array, fill: Sequence[int]) -> chex.Array:
    """Sums of weighted neighbours, one for each channel, as levels u8[...,C]."""
    # PIL computes in double and truncates. In single precision the weights add up to 1 only to
    # rounding, and without the thousandth a plain area would lose a level.
    levels = [
        jnp.where(inside, jnp.clip(total + 1e-3, 0, 255), float(level))
        for total, level in zip(totals, fill, strict=True)
    ]
    return jnp.stack(levels, axis=-1).astype(jnp.uint8)


def _neighbour(
    place: chex.Array, tap: chex.Array, size: int, cubic: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Index i32 and weight f32 of one of the 4 neighbours (`tap` in 0..3) on one axis.

    Beyond the edge the last pixel is repeated.
    """
    at = jnp.floor(place - 0.5) + jnp.asarray(tap - 1, jnp.float32)
    weight = _weight(jnp.abs(place - 0.5 - at), cubic)
    # Clipped as floats: far outside, the number would not fit an integer.
    return jnp.clip(at, 0, size - 1).astype(jnp.int32), weight


def _weight(t: chex.Array, cubic: chex.Array) -> chex.Array:
    """Weight of a pixel at a distance of t ≤ 2.

    The cubic one is Keys' kernel with a = -1, which is PIL's BICUBIC macro sorted by neighbour.
    """
    keys = jnp.where(t < 1, (t - 2) * t**2 + 1, ((5 - t) * t - 8) * t + 4)
    return jnp.where(cubic, keys, jnp.maximum(1 - t, 0.0))
