"""Noise schedules: how much total noise the chain has seen by time t.

Time t runs from 0 (clean label) to 1 (uniform label). `total(t)` is sigma(t), the total noise, and
`rate(t)` its derivative sigma'(t). Both are elementwise, for arguments of any shape.

Within the bounds below, losses, their gradients and samplers stay finite in float32 for up to 1e5
classes, at any `min_time` in [0, 1), any number of steps, any `time` of `one_shot` in (0, 1] and
any tolerance in [0, 1], for a network whose output lies within +-60. So does the norm of the
gradients, but at t = 0 itself, and but for the parameterization `ratio`, whose scores can be e^60.
"""

import dataclasses
import math
from typing import Protocol

import chex
import jax.numpy as jnp

from didicm_jax.diffusion.numerics import at_least_float32

# Of `loglinear`. The spacing of float32 below 1, and so the smallest eps for which 1 - eps is below
# 1 and tells it from others; 1 - (1 - eps) t has the relative error 2^-25 / eps at t = 1.
MIN_EPS = 2.0**-24
# Of `geometric`. For a label noised at sigma the true ratio to the clean one is K / sigma, and the
# norm of a gradient sums its squares: 1e5 / 1e-12 squared is 1e34, and float32 ends at 3e38.
MIN_NOISE = 1e-12
# Of `geometric`. Up to here exp(-sigma) is a normal float32. Nothing is lost: from 17 on a label is
# uniform to the last digit.
MAX_NOISE = 87.0


class Schedule(Protocol):
    """What the loss and the samplers ask of a schedule."""

    def total(self, t: chex.Numeric) -> chex.Array:
        """Total noise sigma(t), the shape of t."""

    def rate(self, t: chex.Numeric) -> chex.Array:
        """Rate sigma'(t) = d sigma / dt, the shape of t."""


@dataclasses.dataclass(frozen=True)
class LogLinear:
    """Keeps the label with probability `exp(-sigma(t)) = 1 - (1 - eps) t`; see `loglinear`."""

    eps: float

    def total(self, t: chex.Numeric) -> chex.Array:
        """`sigma(t) = -log1p(-(1 - eps) t)`."""
        t = at_least_float32(t)
        return -jnp.log1p(-self._slope(t) * t)

    def rate(self, t: chex.Numeric) -> chex.Array:
        """`sigma'(t) = (1 - eps) / (1 - (1 - eps) t)`."""
        t = at_least_float32(t)
        slope = self._slope(t)
        return slope / (1 - slope * t)

    def _slope(self, t: chex.Array) -> float:
        """`1 - eps`, or the largest number below 1 that t can have: at t = 1 all else is infinite.

        So a smaller eps than the type of t resolves is the smallest that it does.
        """
        return min(1 - self.eps, 1 - float(jnp.finfo(t.dtype).epsneg))


@dataclasses.dataclass(frozen=True)
class Geometric:
    """Total noise that grows geometrically; see `geometric`."""

    sigma_min: float
    sigma_max: float

    def total(self, t: chex.Numeric) -> chex.Array:
        """`sigma(t) = sigma_min^(1 - t) sigma_max^t`."""
        log_min, log_max = math.log(self.sigma_min), math.log(self.sigma_max)
        return jnp.exp(log_min + (log_max - log_min) * at_least_float32(t))

    def rate(self, t: chex.Numeric) -> chex.Array:
        """`sigma'(t) = sigma(t) log(sigma_max / sigma_min)`."""
        return self.total(t) * math.log(self.sigma_max / self.sigma_min)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A schedule whose noise comes on top of noise that was there before; see `shifted`."""

    schedule: Schedule
    sigma_0: float

    def total(self, t: chex.Numeric) -> chex.Array:
        """`sigma_0` and the total noise of the schedule."""
        return self.sigma_0 + self.schedule.total(t)

    def rate(self, t: chex.Numeric) -> chex.Array:
        """That of the schedule."""
        return self.schedule.rate(t)


def loglinear(eps: float = 1e-3) -> LogLinear:
    """The paper's schedule: the share of labels still clean falls linearly from 1 to `eps`.

    Source: arXiv 2511.20263; SEDD's `LogLinearNoise` (arXiv 2310.16834).

    Args:
      eps: probability in (0, 1) that a label is still untouched at t = 1. Below `MIN_EPS` float32
        has no digits for it, and `MIN_EPS` is what it gets.

    Raises:
      ValueError: `eps` is outside (0, 1).
    """
    if not 0 < eps < 1:
        raise ValueError(f"loglinear: expected 0 < eps < 1, found {eps}")
    return LogLinear(eps)


def geometric(sigma_min: float = 1e-3, sigma_max: float = 1.0) -> Geometric:
    """Total noise from `sigma_min` at t = 0 to `sigma_max` at t = 1, geometrically.

    With the default `sigma_max` a label is still clean with probability exp(-1) = 0.37 at t = 1,
    so samplers, which start from the uniform distribution, start off the true marginal.

    Source: SEDD's `GeometricNoise` (arXiv 2310.16834).

    Args:
      sigma_min: from `MIN_NOISE` on all is finite in float32.
      sigma_max: up to `MAX_NOISE`.

    Raises:
      ValueError: unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"geometric: expected 0 < sigma_min < sigma_max, found {sigma_min} and {sigma_max}"
        )
    return Geometric(sigma_min, sigma_max)


def total_noise(redrawn: float) -> float:
    """The total noise that draws a label anew with probability `redrawn`: `-log(1 - redrawn)`.

    Labels of which a share eta was redrawn, uniformly over all K classes, are labels of the chain
    at this noise.

    Raises:
      ValueError: `redrawn` is outside [0, 1).
    """
    if not 0 <= redrawn < 1:
        raise ValueError(f"total_noise: expected 0 <= redrawn < 1, found {redrawn}")
    return -math.log1p(-redrawn)


def shifted(schedule: Schedule, sigma_0: float) -> Schedule:
    """The schedule of labels that have total noise `sigma_0` before it begins (`total_noise`).

    A label that is wrong at random is a draw from q at sigma_0. To noise it by sigma is to noise
    the clean label by sigma_0 + sigma, and that is the noise which a network is told. So losses
    take the observed label for what it is, noised by sigma alone, and have the score of the clean
    label's chain as their minimiser all the same; samplers ask for this score where it was trained,
    at sigma_0 + sigma(t), and then take sigma_0 off in one exact step.

    Args:
      schedule: of the noise that is added.
      sigma_0: >= 0; with 0 the result is `schedule` itself.

    Raises:
      ValueError: `sigma_0` is negative.
    """
    if not sigma_0 >= 0:
        raise ValueError(f"shifted: expected sigma_0 >= 0, found {sigma_0}")
    if sigma_0 == 0:
        return schedule
    before, schedule = parts(schedule)
    return Shifted(schedule, before + sigma_0)


def parts(schedule: Schedule) -> tuple[float, Schedule]:
    """The noise that observed labels have before a schedule begins, and what is added to it."""
    if isinstance(schedule, Shifted):
        return schedule.sigma_0, schedule.schedule
    return 0.0, schedule
