"""Durations: a number and a unit, such as `60 epochs`, `500 steps`, `1e6 examples`."""

import math

from didicm_jax.errors import UserError

# Steps are counted in 32 bits on the devices.
_MOST = 2**31 - 1
_UNITS = {"step": "steps", "epoch": "epochs", "example": "examples"}


def expected(*, zero: bool = False) -> str:
    """What a duration, which may be 0 if `zero`, is expected to be."""
    bound = "of at least 0" if zero else "above 0"
    return f"a number {bound} and a unit, like '60 epochs', '500 steps' or '1e6 examples'"


def parse(text: str, *, zero: bool = False) -> tuple[float, str] | None:
    """The number and the unit, in the plural; None where it does not read as a duration.

    Args:
      text: such as `60 epochs`.
      zero: whether it may be 0.
    """
    words = text.split()
    try:
        number, unit = float(words[0]), _UNITS[words[1].removesuffix("s")]
    except (IndexError, ValueError, KeyError):
        return None
    if len(words) != 2 or not 0 <= number < math.inf or not (number or zero):
        return None
    return number, unit


def steps(
    duration: str,
    *,
    batch_size: int,
    num_examples: int,
    key: str = "duration",
    zero: bool = False,
) -> int:
    """A duration in steps, rounded up: at least 1, but for one of 0.

    Args:
      duration: a number and `steps`, `epochs` or `examples`.
      batch_size: global batch.
      num_examples: in an epoch.
      key: what the error calls it.
      zero: whether it may be 0.

    Raises:
      UserError: it does not read as a duration, or is of too many steps to count.
    """
    parsed = parse(duration, zero=zero)
    if parsed is None:
        raise UserError(
            f"config.{key}: expected {expected(zero=zero)}, found {duration!r}; change it"
        )
    number, unit = parsed
    if not number:
        return 0
    per_unit = {"steps": 1.0, "epochs": num_examples / batch_size, "examples": 1 / batch_size}[unit]
    # 1e-9: 60 * (1437 / 64) * 64 / 64 is not always the integer that it should be.
    count = number * per_unit - 1e-9
    if count > _MOST:
        raise UserError(
            f"config.{key}: expected at most {_MOST} steps, found {duration!r}; shorten it"
        )
    return max(1, math.ceil(count))
