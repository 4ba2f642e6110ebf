"""RandAugment with timm's fifteen operations, on the device.

Each image draws an operation per layer, so a batch needs all of them at once. Every operation is
a change of levels, an affine warp, or a blend with a grey or smoothed copy, so a layer is a few
passes. Each pass visits only the images that drew one of its operations, in small groups: with the
usual probability of 0.5, 27 % of the images see a change of levels, 13 % a shear or move, 3 % a
turn, 7 % a blend.

There are two ways to carry out what an operation says. With gathers a change of levels is a table
of 256, looked up for every pixel, and a warp reads neighbours by their index (4 for a shear or
move, 16 for a turn, which is a pass of its own). CPUs and GPUs are quickest so. TPUs are slow at
reading single elements: without gathers the same change of levels is computed for every pixel, only
Equalize's table is looked up, by a product of matrices, and all warps are such products.

Shapes: B images of HxW pixels and C channels (1 or 3), L layers.

Source: Cubuk et al. 2019 (arXiv 1909.13719); operations, levels and probabilities as in timm 1.0,
`timm/data/auto_augment.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment import photometric, products
from didicm_jax.augment.checks import by_device, check, check_channels
from didicm_jax.augment.geometric import warp
from didicm_jax.augment.groups import for_chosen
from didicm_jax.augment.layers import Layer, Operation, draw_layers
from didicm_jax.augment.spec import RandAugmentSpec, parse_rand_augment

_BY_ARITHMETIC = (
    *(Operation.AutoContrast, Operation.Invert, Operation.Posterize),
    *(Operation.Solarize, Operation.SolarizeAdd, Operation.Contrast, Operation.Brightness),
)
_BY_COUNTS = (Operation.Equalize,)
_BY_SHIFT = (Operation.ShearX, Operation.ShearY, Operation.TranslateXRel, Operation.TranslateYRel)
_BY_TURN = (Operation.Rotate,)
_BY_BLEND = (Operation.Color, Operation.Sharpness)

# Of a turn in degrees, and of a shear in pixels per pixel, for each unit of the level.
_DEGREES = 3
_SHEAR = 0.03


def rand_augment(
    keys: chex.PRNGKey,
    images: chex.Array,
    spec: str | RandAugmentSpec,
    fill: Sequence[int],
    *,
    gathers: bool = True,
) -> chex.Array:
    """Applies `layers` random operations to each image, each with probability `probability`.

    Warps interpolate bilinearly or bicubically with probability 1/2 each, timm's default.

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      spec: timm's string, such as `rand-m7-mstd0.5-inc1`, or what `parse_rand_augment` made of it.
      fill: C levels in 0..255 for what a warp brings in from outside. timm takes the mean colour
        of the data set, (124, 116, 104) for ImageNet.
      gathers: read neighbours and table entries by an index; else everything is arithmetic and
        products of matrices, for TPUs, and a level may differ by one.

    Returns:
      u8[B,H,W,C].

    Raises:
      UserError: the string is malformed, or C is neither 1 nor 3.
    """
    check(keys, images)
    check_channels(images)
    settings = parse_rand_augment(spec) if isinstance(spec, str) else spec

    # Scanned rather than written out: one layer is compiled, whatever their number.
    def step(images: chex.Array, layer: Layer) -> tuple[chex.Array, None]:
        changed = apply_layer(
            images,
            layer,
            increasing=settings.increasing,
            fill=fill,
            gathers=gathers,
            strongest=settings.magnitude_max,
        )
        return changed, None

    def augment(images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        layers = jax.vmap(lambda key: draw_layers(key, settings), out_axes=1)(keys)
        return jax.lax.scan(step, images, layers)[0]

    return by_device(augment, images, keys)


def apply_layer(
    images: chex.Array,
    layer: Layer,
    *,
    increasing: bool,
    fill: Sequence[int],
    gathers: bool = True,
    strongest: float = 10.0,
) -> chex.Array:
    """Applies one given operation to each image; nothing is drawn here.

    Args:
      images: u8[B,H,W,C].
      layer: fields [B].
      increasing: which of timm's two sets of strengths (`inc` of the string).
      fill: C levels in 0..255.
      gathers: the way to carry it out, as for `rand_augment`.
      strongest: a promise that no level is above it. Without gathers it bounds the products.

    Returns:
      u8[B,H,W,C].
    """
    batch, height, width, channels = images.shape

    def make_tables(images: chex.Array, layer: Layer) -> chex.Array:
        counts = photometric.histogram(images)
        low, high = photometric.range_of_counts(counts)
        mean = photometric.mean_grey(images)[..., 0]
        changed = _change_levels(photometric.levels(), low, high, mean, layer, increasing)
        equal = (layer.operation == Operation.Equalize)[:, None, None]
        return jnp.where(equal, photometric.equalize_table(counts), changed)

    def by_arithmetic(images: chex.Array, layer: Layer) -> chex.Array:
        x = jnp.moveaxis(images, -1, 1).reshape(-1, channels, height * width).astype(jnp.int32)
        low, high = jnp.min(x, axis=-1, keepdims=True), jnp.max(x, axis=-1, keepdims=True)
        mean = photometric.mean_grey(images)[..., 0]
        changed = _change_levels(x, low, high, mean, layer, increasing)
        return jnp.moveaxis(changed.reshape(-1, channels, height, width), 1, -1)

    def by_counts(images: chex.Array) -> chex.Array:
        tables = photometric.equalize_table(products.histogram(images))
        return products.look_up(images, tables)

    def by_warp(images: chex.Array, layer: Layer) -> chex.Array:
        turned = (layer.operation == Operation.Rotate)[:, None]
        matrices = jnp.where(turned, _turns(layer, height, width), _shifts(layer, height, width))
        # The steepest of all turns is one by 45 degrees.
        angle = min(math.radians(_DEGREES * strongest), math.pi / 4)
        reach = max(math.cos(angle) + math.sin(angle), 1 + _SHEAR * strongest)
        return warp(images, matrices, layer.cubic, fill, gathers=False, reach=reach)

    def by_shift(images: chex.Array, layer: Layer) -> chex.Array:
        matrices = _shifts(layer, height, width)
        return warp(images, matrices, layer.cubic, fill, one_axis=True)

    def by_turn(images: chex.Array, layer: Layer) -> chex.Array:
        return warp(images, _turns(layer, height, width), layer.cubic, fill)

    def by_blend(images: chex.Array, layer: Layer) -> chex.Array:
        sharpness = (layer.operation == Operation.Sharpness)[:, None, None, None]
        degenerate = jnp.where(sharpness, photometric.smooth(images), photometric.grey(images))
        factor = _factor(layer, increasing)[:, None, None, None]
        return photometric.blend(degenerate, images, factor)

    # An image has one operation in a layer, so the order of the passes does not matter.
    passes: tuple[tuple[tuple[Operation, ...], Callable[..., chex.Array], tuple[Any, ...]], ...]
    if gathers:
        # Tables are finished for all images before the first is read: in one loop XLA would compute
        # an entry anew for every pixel that looks it up.
        by_table = _BY_ARITHMETIC + _BY_COUNTS
        tables = jnp.zeros_like(images, shape=(batch, channels, 256))
        tables = for_chosen(_has(layer, by_table), make_tables, (images, layer), tables, gathers)
        passes = (
            (by_table, photometric.apply_tables, (images, tables)),
            (_BY_SHIFT, by_shift, (images, layer)),
            (_BY_TURN, by_turn, (images, layer)),
            (_BY_BLEND, by_blend, (images, layer)),
        )
    else:
        passes = (
            (_BY_ARITHMETIC, by_arithmetic, (images, layer)),
            (_BY_COUNTS, by_counts, (images,)),
            (_BY_SHIFT + _BY_TURN, by_warp, (images, layer)),
            (_BY_BLEND, by_blend, (images, layer)),
        )
    for operations, change, inputs in passes:
        images = for_chosen(_has(layer, operations), change, inputs, images, gathers)
    return images


def _has(layer: Layer, operations: Sequence[Operation]) -> chex.Array:
    """Whether the operation of each image is one of these, bool[B]."""
    ours = jnp.asarray(operations, jnp.int32)
    return jnp.any(layer.operation[:, None] == ours[None, :], axis=1)


def _signed(layer: Layer) -> chex.Array:
    return jnp.where(layer.negate, -layer.level, layer.level)


def _factor(layer: Layer, increasing: bool) -> chex.Array:
    """Factor f32[B] of Color, Contrast, Brightness and Sharpness; 1 changes nothing."""
    if increasing:
        return jnp.maximum(0.1, 1 + 0.09 * _signed(layer))
    return 0.1 + 0.18 * layer.level


def _turns(layer: Layer, height: int, width: int) -> chex.Array:
    """Matrices f32[B,6] for `warp` that turn around the centre: by 30 degrees at level 10."""
    angle = -jnp.deg2rad(_DEGREES * _signed(layer))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    return jnp.stack([cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y], axis=1)


def _shifts(layer: Layer, height: int, width: int) -> chex.Array:
    """Matrices f32[B,6] for `warp`: shears by 0.3 and moves by 45 % of the side at level 10."""
    amount = _signed(layer)

    def only(operation: Operation, scale: float) -> chex.Array:
        return jnp.where(layer.operation == operation, scale * amount, 0.0)

    one = jnp.ones_like(amount)
    right = only(Operation.TranslateXRel, 0.045 * width)
    down = only(Operation.TranslateYRel, 0.045 * height)
    sideways, upright = only(Operation.ShearX, _SHEAR), only(Operation.ShearY, _SHEAR)
    return jnp.stack([one, sideways, right, upright, one, down], axis=1)


def _change_levels(
    x: chex.Array,
    low: chex.Array,
    high: chex.Array,
    mean: chex.Array,
    layer: Layer,
    increasing: bool,
) -> chex.Array:
    """What the operations of `_BY_ARITHMETIC` make of levels x, i32[B,C,N] to u8[B,C,N].

    Args:
      x: i32[B,C,N], pixels or all levels; [1,1,N] where they are the same for all channels.
      low, high: the lowest and the highest level in use, i32[B,C,1].
      mean: of the grey copy, i32[B,1,1].
      layer: fields [B].
      increasing: as for `apply_layer`.
    """
    operation, level = (field[:, None, None] for field in (layer.operation, layer.level))
    bits = (0.4 * level).astype(jnp.int32)
    bits = 4 - bits if increasing else bits
    dropped = jnp.clip(8 - bits, 0, 8)
    threshold = jnp.minimum(256, (25.6 * level).astype(jnp.int32))
    threshold = 256 - threshold if increasing else threshold
    # 110/10: a factor of 11, so that whole levels give whole numbers also in single precision.
    added = jnp.minimum(128, (11 * level).astype(jnp.int32))
    changes = {
        Operation.AutoContrast: photometric.autocontrast(x, low, high),
        Operation.Invert: 255 - x,
        Operation.Posterize: (x >> dropped) << dropped,
        Operation.Solarize: jnp.where(x < threshold, x, 255 - x),
        Operation.SolarizeAdd: jnp.where(x < 128, jnp.minimum(255, x + added), x),
    }
    # Brightness and contrast blend with one level.
    mean = jnp.where(operation == Operation.Contrast, mean, 0)
    result = photometric.blend(mean, x, _factor(layer, increasing)[:, None, None])
    for number, change in changes.items():
        result = jnp.where(operation == number, change.astype(jnp.uint8), result)
    return result
