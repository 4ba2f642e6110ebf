"""Durations: a number and a unit, such as `60 epochs`, `500 steps`, `1e6 examples`."""

import math

from didicm_jax.errors import UserError

EXPECTED = "a number above 0 and a unit, like '60 epochs', '500 steps' or '1e6 examples'"

# Steps are counted in 32 bits on the devices.
_MOST = 2**31 - 1
_UNITS = {"step": "steps", "epoch": "epochs", "example": "examples"}


def parse(text: str) -> tuple[float, str] | None:
    """The number and the unit, in the plural; None where it does not read as a duration."""
    words = text.split()
    try:
        number, unit = float(words[0]), _UNITS[words[1].removesuffix("s")]
    except (IndexError, ValueError, KeyError):
        return None
    return (number, unit) if len(words) == 2 and 0 < number < math.inf else None


def steps(duration: str, *, batch_size: int, num_examples: int, key: str = "duration") -> int:
    """A duration in steps, rounded up.

    Args:
      duration: a number and `steps`, `epochs` or `examples`.
      batch_size: global batch.
      num_examples: in an epoch.
      key: what the error calls it.

    Raises:
      UserError: it does not read as a duration of more than 0, or is of too many steps to count.
    """
    parsed = parse(duration)
    if parsed is None:
        raise UserError(f"config.{key}: expected {EXPECTED}, found {duration!r}; change it")
    number, unit = parsed
    per_unit = {"steps": 1.0, "epochs": num_examples / batch_size, "examples": 1 / batch_size}[unit]
    # 1e-9: 60 * (1437 / 64) * 64 / 64 is not always the integer that it should be.
    count = number * per_unit - 1e-9
    if count > _MOST:
        raise UserError(
            f"config.{key}: expected at most {_MOST} steps, found {duration!r}; shorten it"
        )
    return max(1, math.ceil(count))
