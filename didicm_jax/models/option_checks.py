"""What the options of every family of models are checked with.

Everything here raises `UserError` with one line: what was expected, what was found, what to do.
"""

import math
from collections.abc import Collection

import jax.numpy as jnp
from jax.typing import DTypeLike

from didicm_jax.errors import UserError

COMPUTE_DTYPES = ("float32", "bfloat16")

ImageSize = int | tuple[int, int]


def require_int(what: str, value: object, low: int, high: float = math.inf) -> None:
    """Raises UserError unless `value` is a whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise UserError(f"{what}: expected a whole number {limits}, found {value!r}: change it")


def require_key(what: str, value: object, known: Collection[str]) -> None:
    """Raises UserError unless `value` is one of the names in `known`."""
    if not isinstance(value, str) or value not in known:
        raise UserError(f"{what}: expected one of {', '.join(known)}, found {value!r}: change it")


def check_image_size(name: str, image_size: ImageSize) -> tuple[int, int]:
    """Height and width; UserError unless they are positive whole numbers."""
    # Lists too: that is what a tuple becomes on its way through a JSON file.
    sides = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size,) * 2
    if len(sides) != 2:
        raise UserError(
            f"{name}: expected image_size to be one number or (height, width), found "
            f"{image_size!r}: give the size of the images the model will see"
        )
    for side in sides:
        require_int(f"{name}: image_size", side, 1)
    return sides[0], sides[1]


def check_compute_dtype(name: str, dtype: DTypeLike) -> None:
    """Raises UserError unless networks can compute in `dtype`."""
    try:
        found = jnp.dtype(dtype).name
    except TypeError:
        found = repr(dtype)
    if found not in COMPUTE_DTYPES:
        raise UserError(
            f"{name}: expected dtype to be {' or '.join(COMPUTE_DTYPES)}, found {found}: "
            "set it to one of them (parameters and norms are float32 in any case)"
        )


def check_positive_width(name: str, width: object) -> None:
    """Raises UserError unless `width` is a number that can multiply a count of channels."""
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 100:
        raise UserError(
            f"{name}: expected width to be a number above 0 and at most 100, found {width!r}: "
            "set width=1.0 for the full network"
        )
