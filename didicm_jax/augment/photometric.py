"""What changes levels and leaves pixels in place, with PIL's integer arithmetic and rounding.

A change is either a blend with another image (grey, smoothed, black, one level) or a table of 256
levels. Grey images (C = 1) are their own grey copy, so a change of colour leaves them as they are.

Shapes: B images of HxW pixels and C channels (1 or 3).
"""

import itertools

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment.checks import by_device, check, check_channels


def grey(images: chex.Array) -> chex.Array:
    """Luma i32[B,H,W,1] of u8[B,H,W,C], ITU-R 601-2 in 16 bits: PIL's `convert("L")`."""
    if images.shape[-1] == 1:
        return images.astype(jnp.int32)
    red, green, blue = (images[..., k : k + 1].astype(jnp.int32) for k in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def mean_grey(images: chex.Array) -> chex.Array:
    """Mean luma i32[B,1,1,1] of u8[B,H,W,C], rounded half up: what PIL's Contrast blends with.

    Exact below 8 million pixels, where the sum of the levels still fits 32 bits.
    """
    pixels = images.shape[1] * images.shape[2]
    total = jnp.sum(grey(images), axis=(1, 2, 3), keepdims=True, dtype=jnp.int32)
    return (total + pixels // 2) // pixels


def smooth(images: chex.Array) -> chex.Array:
    """PIL's SMOOTH filter, i32[B,H,W,C] of u8[B,H,W,C].

    Each pixel becomes (the sum of its 3x3 neighbours + 4 times itself)/13, rounded; the outermost
    ring of pixels stays as it is.
    """
    levels = images.astype(jnp.int32)
    height, width = images.shape[1:3]
    if height < 3 or width < 3:
        return levels
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels[:, 1:-1, 1:-1]
    ring = jnp.pad(jnp.ones((1, height - 2, width - 2, 1), bool), ((0, 0), (1, 1), (1, 1), (0, 0)))
    inner = jnp.pad((total + 6) // 13, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.where(ring, inner, levels)


def blend(degenerate: chex.Array, images: chex.Array, factor: chex.Array) -> chex.Array:
    """degenerate + factor·(images - degenerate), clipped and truncated: PIL's `Image.blend`.

    Factor 0 gives `degenerate`, 1 gives `images`, more than 1 extrapolates.

    Args:
      degenerate: i32, broadcasts to the images.
      images: u8 or i32[...].
      factor: f32, broadcasts to the images.

    Returns:
      u8[...].
    """
    start = degenerate.astype(jnp.float32)
    value = start + factor * (images.astype(jnp.float32) - start)
    return jnp.clip(value, 0.0, 255.0).astype(jnp.uint8)


def histogram(images: chex.Array) -> chex.Array:
    """Pixels per level and channel, i32[B,C,256] of u8[B,H,W,C]."""
    batch, channels = images.shape[0], images.shape[-1]
    bins = images.astype(jnp.int32) + _table_offsets(batch, channels)
    counts = jnp.zeros(batch * channels * 256, jnp.int32).at[bins.reshape(-1)].add(1)
    return counts.reshape(batch, channels, 256)


def levels() -> chex.Array:
    """All levels, i32[1,1,256]."""
    return jnp.arange(256, dtype=jnp.int32)[None, None, :]


def range_of_counts(counts: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The lowest and the highest level in use, i32[B,C,1] of counts i32[B,C,256]."""
    x = levels()
    low = jnp.min(jnp.where(counts > 0, x, 255), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(counts > 0, x, 0), axis=-1, keepdims=True)
    return low, high


def autocontrast(x: chex.Array, low: chex.Array, high: chex.Array) -> chex.Array:
    """Stretches the levels in use, low to high i32[B,C,1], to 0..255: i32[B,C,...] to u8.

    A channel with one level keeps it. Source: Pillow, `ImageOps.autocontrast`. Where a result is a
    whole number, Pillow's floating-point arithmetic may come out one level lower.
    """
    stretched = jnp.clip((x - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, x).astype(jnp.uint8)


def equalize_table(counts: chex.Array) -> chex.Array:
    """Table that makes the levels equally frequent, u8[B,C,256] of counts i32[B,C,256].

    A channel with one level, or with too few pixels outside its highest, stays as it is. Source:
    Pillow, `ImageOps.equalize`.
    """
    x = levels()
    _, high = range_of_counts(counts)
    below_high = jnp.sum(jnp.where(x < high, counts, 0), -1, keepdims=True, dtype=jnp.int32)
    step = below_high // 255
    below = jnp.cumsum(counts, axis=-1, dtype=jnp.int32) - counts
    equal = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, equal, x).astype(jnp.uint8)


def apply_tables(images: chex.Array, tables: chex.Array) -> chex.Array:
    """Replaces each level by its entry: u8[B,H,W,C] and u8[B,C,256] to u8[B,H,W,C]."""
    batch, channels = images.shape[0], images.shape[-1]
    chex.assert_shape(tables, (batch, channels, 256))
    places = images.astype(jnp.int32) + _table_offsets(batch, channels)
    return tables.reshape(-1).at[places].get(mode="promise_in_bounds")


def color_jitter(keys: chex.PRNGKey, images: chex.Array, strength: float) -> chex.Array:
    """Brightness, contrast and saturation by random factors, in random order.

    Each factor is uniform on [max(0, 1 - strength), 1 + strength]; the six orders are equally
    likely, and levels are rounded after each of the three, as torchvision's `ColorJitter` does on
    PIL images. The paper's Weak recipe has 0.4 (and no change of hue).

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      strength: ≥ 0.

    Returns:
      u8[B,H,W,C].

    Raises:
      UserError: C is neither 1 nor 3.
    """
    check(keys, images)
    check_channels(images)
    if strength < 0:
        raise ValueError(f"expected strength ≥ 0, found {strength}")

    def jitter(images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        kinds, factors = jax.vmap(lambda key: _draw_jitter(key, strength))(keys)
        for turn in range(3):
            images = _adjust(images, kinds[:, turn], factors[:, turn])
        return images

    return by_device(jitter, images, keys)


BRIGHTNESS, CONTRAST, SATURATION = range(3)


def _draw_jitter(key: chex.PRNGKey, strength: float) -> tuple[chex.Array, chex.Array]:
    """What is changed first, second and third, i32[3], and by which factors, f32[3]."""
    orders = jnp.asarray(list(itertools.permutations(range(3))), jnp.int32)
    # One call for all that is random: each further one would add to the time to compile.
    uniform = jax.random.uniform(key, (4,), jnp.float32)
    low, high = max(0.0, 1 - strength), 1 + strength
    return orders[(6 * uniform[0]).astype(jnp.int32)], low + (high - low) * uniform[1:]


def _adjust(images: chex.Array, kinds: chex.Array, factors: chex.Array) -> chex.Array:
    """Changes brightness, contrast or saturation (kinds i32[B]) of each image by its factor."""
    kinds = kinds[:, None, None, None]
    level = jnp.where(kinds == CONTRAST, mean_grey(images), 0)
    degenerate = jnp.where(kinds == SATURATION, grey(images), level)
    return blend(degenerate, images, factors[:, None, None, None])


def _table_offsets(batch: int, channels: int) -> chex.Array:
    """Where the table of each image and channel starts in a flat array, i32[B,1,1,C]."""
    return (256 * jnp.arange(batch * channels, dtype=jnp.int32)).reshape(batch, 1, 1, channels)
