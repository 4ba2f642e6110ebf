"""RandAugment with timm's fifteen operations, on the device.

Each image draws an operation per layer, so a batch needs all of them at once. Every operation is
a table of 256 levels, an affine warp, or a blend with a grey or smoothed copy, so a layer is three
passes (four: turning reads more neighbours than the other warps). Each pass visits only the images
that drew one of its operations, in small groups: with the usual probability of 0.5, 27 % of the
images see a table, 13 % a shear or move, 3 % a turn, 7 % a blend.

Shapes: B images of HxW pixels and C channels (1 or 3), L layers.

Source: Cubuk et al. 2019 (arXiv 1909.13719); operations, levels and probabilities as in timm 1.0,
`timm/data/auto_augment.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment import photometric
from didicm_jax.augment.checks import check, check_channels
from didicm_jax.augment.geometric import warp
from didicm_jax.augment.spec import RandAugmentSpec, parse_rand_augment

# timm's names, in its order. The five with another strength under `inc1` keep their number.
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
)
(
    AUTO_CONTRAST,
    EQUALIZE,
    INVERT,
    ROTATE,
    POSTERIZE,
    SOLARIZE,
    SOLARIZE_ADD,
    COLOR,
    CONTRAST,
    BRIGHTNESS,
    SHARPNESS,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
) = range(len(OPERATIONS))
NOTHING = -1

_BY_TABLE = (
    *(AUTO_CONTRAST, EQUALIZE, INVERT, POSTERIZE),
    *(SOLARIZE, SOLARIZE_ADD, CONTRAST, BRIGHTNESS),
)
_BY_SHIFT = (SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y)
_BY_TURN = (ROTATE,)
_BY_BLEND = (COLOR, SHARPNESS)

# A pass visits the batch in at most so many groups. Fewer would waste more on the last, partly
# empty group; more would leave an accelerator waiting between small kernels.
_GROUPS = 16


class Layer(NamedTuple):
    """What a layer does to each image, [B], or [L,B] for all layers.

    Attributes:
      operation: i32, a place in `OPERATIONS`, or `NOTHING`.
      level: f32, the noisy magnitude; 10 is strong.
      negate: bool, whether a turn, shear, move or change of factor goes the other way.
      cubic: bool, whether a warp interpolates bicubically rather than bilinearly.
    """

    operation: chex.Array
    level: chex.Array
    negate: chex.Array
    cubic: chex.Array


def rand_augment(
    keys: chex.PRNGKey,
    images: chex.Array,
    spec: str | RandAugmentSpec,
    fill: Sequence[int],
) -> chex.Array:
    """Applies `layers` random operations to each image, each with probability `probability`.

    Warps interpolate bilinearly or bicubically with probability 1/2 each, timm's default.

    Args:
      keys: typed keys [B].
      images: u8[B,H,W,C].
      spec: timm's string, such as `rand-m7-mstd0.5-inc1`, or what `parse_rand_augment` made of it.
      fill: C levels in 0..255 for what a warp brings in from outside. timm takes the mean colour
        of the data set, (124, 116, 104) for ImageNet.

    Returns:
      u8[B,H,W,C].

    Raises:
      UserError: the string is malformed, or C is neither 1 nor 3.
    """
    check(keys, images)
    check_channels(images)
    settings = parse_rand_augment(spec) if isinstance(spec, str) else spec
    layers = jax.vmap(lambda key: draw_layers(key, settings), out_axes=1)(keys)

    # Scanned rather than written out: one layer is compiled, whatever their number.
    def step(images: chex.Array, layer: Layer) -> tuple[chex.Array, None]:
        return apply_layer(images, layer, increasing=settings.increasing, fill=fill), None

    return jax.lax.scan(step, images, layers)[0]


def draw_layers(key: chex.PRNGKey, spec: RandAugmentSpec) -> Layer:
    """Draws what happens to one image: every field of the result is [L]."""
    # One call for all that is random: each further one would add to the time to compile.
    uniform = jax.random.uniform(key, (5, spec.layers), jnp.float32)
    for_operation, for_use, for_level, for_sign, for_filter = uniform
    operation = (len(OPERATIONS) * for_operation).astype(jnp.int32)
    if spec.magnitude_std > 100:
        level = spec.magnitude * for_level
    elif spec.magnitude_std:
        normal = math.sqrt(2) * jax.lax.erf_inv(2 * for_level - 1)  # -inf at 0, which is cut below
        level = spec.magnitude + spec.magnitude_std * normal
    else:
        level = jnp.full_like(for_level, spec.magnitude)
    return Layer(
        operation=jnp.where(for_use < spec.probability, operation, NOTHING),
        level=jnp.clip(level, 0.0, float(spec.magnitude_max)),
        negate=for_sign < 0.5,
        cubic=for_filter < 0.5,
    )


def apply_layer(
    images: chex.Array, layer: Layer, *, increasing: bool, fill: Sequence[int]
) -> chex.Array:
    """Applies one given operation to each image; nothing is drawn here.

    Args:
      images: u8[B,H,W,C].
      layer: fields [B].
      increasing: which of timm's two sets of strengths (`inc` of the string).
      fill: C levels in 0..255.

    Returns:
      u8[B,H,W,C].
    """

    def make_tables(images: chex.Array, layer: Layer) -> chex.Array:
        return _tables(images, layer, increasing)

    def by_shift(images: chex.Array, layer: Layer) -> chex.Array:
        matrices = _shifts(layer, *images.shape[1:3])
        return warp(images, matrices, layer.cubic, fill, one_axis=True)

    def by_turn(images: chex.Array, layer: Layer) -> chex.Array:
        return warp(images, _turns(layer, *images.shape[1:3]), layer.cubic, fill)

    def by_blend(images: chex.Array, layer: Layer) -> chex.Array:
        sharpness = (layer.operation == SHARPNESS)[:, None, None, None]
        degenerate = jnp.where(sharpness, photometric.smooth(images), photometric.grey(images))
        factor = _factor(layer, increasing)[:, None, None, None]
        return photometric.blend(degenerate, images, factor)

    # An image has one operation in a layer, so the order of the passes does not matter. Tables are
    # finished for all images before the first is read: in one loop XLA would compute an entry anew
    # for every pixel that looks it up.
    batch, _, _, channels = images.shape
    tables = jnp.zeros_like(images, shape=(batch, channels, 256))
    tables = _for_chosen(_BY_TABLE, layer, make_tables, (images, layer), tables)
    for operations, change, inputs in (
        (_BY_TABLE, photometric.apply_tables, (images, tables)),
        (_BY_SHIFT, by_shift, (images, layer)),
        (_BY_TURN, by_turn, (images, layer)),
        (_BY_BLEND, by_blend, (images, layer)),
    ):
        images = _for_chosen(operations, layer, change, inputs, images)
    return images


def _for_chosen(
    operations: tuple[int, ...],
    layer: Layer,
    change: Callable[..., chex.Array],
    inputs: tuple[Any, ...],
    result: chex.Array,
) -> chex.Array:
    """Fills the rows of `result` whose operation is one of these with `change(*inputs)`.

    Rows are visited in groups, and the number of groups is known only at run time; what becomes of
    an image does not depend on its group. On several devices call it within `shard_map`: each then
    gathers its own images only.

    Args:
      operations: places in `OPERATIONS`.
      layer: fields [B].
      change: a function of some rows of every input, to the same rows of the result.
      inputs: arrays [B,...].
      result: array [B,...], kept where the operation is another one.
    """
    batch = result.shape[0]
    size = -(-batch // _GROUPS)
    ours = jnp.asarray(operations, jnp.int32)
    chosen = jnp.any(layer.operation[:, None] == ours[None, :], axis=1)
    order = jnp.argsort(~chosen, stable=True).astype(jnp.int32)
    count = jnp.sum(chosen, dtype=jnp.int32)

    def group(state: tuple[chex.Array, chex.Array]) -> tuple[chex.Array, chex.Array]:
        done, filled = state
        # The last group starts early enough to be full. It may hold rows that were filled before,
        # or are not chosen: it reads the inputs, so nothing is changed twice.
        rows = jax.lax.dynamic_slice_in_dim(order, jnp.minimum(done, batch - size), size)
        after = change(*jax.tree.map(lambda array: array[rows], inputs))
        kept = chosen[rows].reshape(size, *[1] * (result.ndim - 1))
        after = jnp.where(kept, after, result[rows])
        filled = filled.at[rows].set(after, mode="promise_in_bounds", unique_indices=True)
        return done + size, filled

    start = (jnp.zeros_like(count), result)
    return jax.lax.while_loop(lambda state: state[0] < count, group, start)[1]


def _signed(layer: Layer) -> chex.Array:
    return jnp.where(layer.negate, -layer.level, layer.level)


def _factor(layer: Layer, increasing: bool) -> chex.Array:
    """Factor f32[B] of Color, Contrast, Brightness and Sharpness; 1 changes nothing."""
    if increasing:
        return jnp.maximum(0.1, 1 + 0.09 * _signed(layer))
    return 0.1 + 0.18 * layer.level


def _turns(layer: Layer, height: int, width: int) -> chex.Array:
    """Matrices f32[B,6] for `warp` that turn around the centre: by 30 degrees at level 10."""
    angle = -jnp.deg2rad(3 * _signed(layer))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    return jnp.stack([cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y], axis=1)


def _shifts(layer: Layer, height: int, width: int) -> chex.Array:
    """Matrices f32[B,6] for `warp`: shears by 0.3 and moves by 45 % of the side at level 10."""
    amount = _signed(layer)

    def only(operation: int, scale: float) -> chex.Array:
        return jnp.where(layer.operation == operation, scale * amount, 0.0)

    one = jnp.ones_like(amount)
    right, down = only(TRANSLATE_X, 0.045 * width), only(TRANSLATE_Y, 0.045 * height)
    return jnp.stack([one, only(SHEAR_X, 0.03), right, only(SHEAR_Y, 0.03), one, down], axis=1)


def _tables(images: chex.Array, layer: Layer, increasing: bool) -> chex.Array:
    """Tables u8[B,C,256] of the operations that are one."""
    counts = photometric.histogram(images)
    x = jnp.arange(256, dtype=jnp.int32)[None, None, :]
    operation, level = (field[:, None, None] for field in (layer.operation, layer.level))
    bits = (0.4 * level).astype(jnp.int32)
    bits = 4 - bits if increasing else bits
    dropped = jnp.clip(8 - bits, 0, 8)
    threshold = jnp.minimum(256, (25.6 * level).astype(jnp.int32))
    threshold = 256 - threshold if increasing else threshold
    # 110/10: a factor of 11, so that whole levels give whole numbers also in single precision.
    added = jnp.minimum(128, (11 * level).astype(jnp.int32))
    mean = jnp.where(operation == CONTRAST, photometric.mean_grey(images)[..., 0], 0)
    tables = {
        AUTO_CONTRAST: photometric.autocontrast_table(counts),
        EQUALIZE: photometric.equalize_table(counts),
        INVERT: 255 - x,
        POSTERIZE: (x >> dropped) << dropped,
        SOLARIZE: jnp.where(x < threshold, x, 255 - x),
        SOLARIZE_ADD: jnp.where(x < 128, jnp.minimum(255, x + added), x),
    }
    # Brightness and contrast blend with one level, which is a table as well.
    result = photometric.blend(mean, x, _factor(layer, increasing)[:, None, None])
    for number, table in tables.items():
        result = jnp.where(operation == number, table.astype(jnp.uint8), result)
    return jnp.broadcast_to(result, counts.shape)
