"""How a RandAugment is written: timm's strings, such as `rand-m7-mstd0.5-inc1`."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from didicm_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RandAugmentSpec:
    """The settings of RandAugment; the defaults are timm's.

    Attributes:
      magnitude: strength of the operations, on a scale where 10 is strong.
      layers: operations drawn for each image, one after the other.
      magnitude_std: deviation of the Gaussian noise on the magnitude; more than 100 means a
        magnitude uniform on [0, magnitude] instead.
      magnitude_max: upper bound of the noisy magnitude.
      increasing: whether more magnitude means more change for every operation, rather than timm's
        older set where it means a larger argument (a factor of 0.1 to 1.9, more bits kept).
      probability: with which each drawn operation is applied.
    """

    magnitude: int = 10
    layers: int = 2
    magnitude_std: float = 0.0
    magnitude_max: int = 10
    increasing: bool = False
    probability: float = 0.5


def parse_rand_augment(text: str, key: str = "rand_augment") -> RandAugmentSpec:
    """Reads `rand-m7-mstd0.5-inc1`: the word rand, then parts in any order, joined by dashes.

    Stricter than timm, which skips parts without a number, takes `inc0` for `inc1`, and silently
    cuts a magnitude above `mmax`. Its named sets of operations (`t...`) are not supported.

    Args:
      text: the string.
      key: what errors call it.

    Raises:
      UserError: a part is unknown, malformed, given twice or out of range.
    """
    first, *parts = text.split("-")
    if first != "rand":
        raise UserError(f"{key}: expected a string like rand-m7-mstd0.5-inc1, found {text!r}")
    values: dict[str, Any] = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d*)?)", part)
        name = match[1] if match else ""
        if match is None or name not in _PARTS:
            raise UserError(
                f"{key}: expected parts of a name and a number, with the names {', '.join(_PARTS)},"
                f" found {part!r} in {text!r}: correct or remove it"
            )
        field, kind, low, high = _PARTS[name]
        value = float(match[2])
        if field in values or not low <= value <= high or kind(value) != value:
            raise UserError(
                f"{key}: expected {name} once, a {'' if kind is float else 'whole '}number of at "
                f"least {low:g} and at most {high:g}, found {part!r} in {text!r}: correct it"
            )
        values[field] = kind(value)
    spec = RandAugmentSpec(**values)
    if spec.magnitude > spec.magnitude_max:
        raise UserError(
            f"{key}: expected a magnitude of at most mmax ({spec.magnitude_max}), found "
            f"m{spec.magnitude} in {text!r}: raise mmax or lower m"
        )
    return spec


# Name in the string: field, type, least and greatest value. A level of 1,000 is far beyond what any
# operation can use; of a larger one, its argument would not fit an integer at last.
_PARTS: dict[str, tuple[str, Callable[[float], Any], float, float]] = {
    "m": ("magnitude", int, 0.0, 1000.0),
    "n": ("layers", int, 1.0, 100.0),
    "mstd": ("magnitude_std", float, 0.0, 1000.0),
    "mmax": ("magnitude_max", int, 1.0, 1000.0),
    "inc": ("increasing", bool, 0.0, 1.0),
    "p": ("probability", float, 0.0, 1.0),
}
