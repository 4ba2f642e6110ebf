"""What RandAugment draws for each image: an operation and its level, layer by layer."""

import enum
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from didicm_jax.augment.spec import RandAugmentSpec


class Operation(enum.IntEnum):
    """timm's names, in its order. The five with another strength under `inc1` keep their number."""

    AutoContrast = 0
    Equalize = 1
    Invert = 2
    Rotate = 3
    Posterize = 4
    Solarize = 5
    SolarizeAdd = 6
    Color = 7
    Contrast = 8
    Brightness = 9
    Sharpness = 10
    ShearX = 11
    ShearY = 12
    TranslateXRel = 13
    TranslateYRel = 14


NOTHING = -1


class Layer(NamedTuple):
    """What a layer does to each image, [B], or [L,B] for all layers.

    Attributes:
      operation: i32, an `Operation`, or `NOTHING`.
      level: f32, the noisy magnitude; 10 is strong.
      negate: bool, whether a turn, shear, move or change of factor goes the other way.
      cubic: bool, whether a warp interpolates bicubically rather than bilinearly.
    """

    operation: chex.Array
    level: chex.Array
    negate: chex.Array
    cubic: chex.Array


def draw_layers(key: chex.PRNGKey, spec: RandAugmentSpec) -> Layer:
    """Draws what happens to one image: every field of the result is [L]."""
    # One call for all that is random: each further one would add to the time to compile.
    uniform = jax.random.uniform(key, (5, spec.layers), jnp.float32)
    for_operation, for_use, for_level, for_sign, for_filter = uniform
    operation = (len(Operation) * for_operation).astype(jnp.int32)
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
