"""What moves pixels: mirror images, shifts, and affine warps as PIL computes them.

Shapes: B images of HxW pixels and C channels.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment.checks import check


def random_flip(keys: chex.PRNGKey, images: chex.Array) -> chex.Array:
    """Mirrors each image left to right with probability 1/2: u8[B,H,W,C] to the same."""
    check(keys, images)
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1, :], images)


def shift_crop(keys: chex.PRNGKey, images: chex.Array, padding: int) -> chex.Array:
    """Pads each image with `padding` zero pixels and crops the original size at random.

    The offsets are uniform on {0..2·padding}, vertical and horizontal independent, so the content
    moves by up to `padding` pixels each way (He et al. 2016, section 4.2, for CIFAR-10 with 4).

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      padding: pixels on each side, ≥ 0.

    Returns:
      u8[B,H,W,C].
    """
    check(keys, images)
    if padding < 0:
        raise ValueError(f"expected padding ≥ 0, found {padding}")
    margin = (padding, padding)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))

    def crop(key: chex.PRNGKey, image: chex.Array) -> chex.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)


def warp(
    images: chex.Array,
    matrices: chex.Array,
    cubic: chex.Array,
    fill: Sequence[int],
    *,
    one_axis: bool = False,
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

    Returns:
      u8[B,H,W,C], truncated towards 0 as PIL does.

    Source: Pillow, src/libImaging/Geometry.c.
    """
    chex.assert_rank([images, matrices, cubic], [4, 2, 1])
    chex.assert_type([images, matrices, cubic], [jnp.uint8, jnp.float32, jnp.bool_])
    batch, height, width, channels = images.shape
    chex.assert_shape([matrices, cubic], [(batch, 6), (batch,)])
    if channels > 4 or len(fill) != channels:
        raise ValueError(f"expected up to 4 channels and a level for each, found {images.shape}")

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
    a, b, c, d, e, f = (matrices[:, k, None] for k in range(6))
    from_x = a * x + b * y + c
    from_y = d * x + e * y + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
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
    # PIL computes in double and truncates. In single precision the weights add up to 1 only to
    # rounding, and without the thousandth a plain area would lose a level.
    levels = [
        jnp.where(inside, jnp.clip(total + 1e-3, 0, 255), float(level))
        for total, level in zip(totals, fill, strict=True)
    ]
    return jnp.stack(levels, axis=-1).astype(jnp.uint8).reshape(images.shape)


def _neighbour(
    place: chex.Array, tap: chex.Array, size: int, cubic: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Index i32 and weight f32 of one of the 4 neighbours (`tap` in 0..3) on one axis.

    Beyond the edge the last pixel is repeated. The cubic weight is Keys' kernel with a = -1, which
    is PIL's BICUBIC macro sorted by neighbour.
    """
    at = jnp.floor(place - 0.5) + (tap - 1).astype(jnp.float32)
    t = jnp.abs(place - 0.5 - at)
    keys = jnp.where(t < 1, (t - 2) * t**2 + 1, ((5 - t) * t - 8) * t + 4)
    weight = jnp.where(cubic, keys, jnp.maximum(1 - t, 0.0))
    # Clipped as floats: far outside, the number would not fit an integer.
    return jnp.clip(at, 0, size - 1).astype(jnp.int32), weight
