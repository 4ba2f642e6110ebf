"""Noise schedules: how much total noise the chain has seen by time t.

Time t runs from 0 (clean label) to 1 (uniform label). `total(t)` is sigma(t), the total noise,
`rate(t)` its derivative sigma'(t), and `time(sigma)` the inverse of `total`. All are elementwise,
for arguments of any shape.
"""

import dataclasses
import math
from typing import Protocol

import chex
import jax.numpy as jnp


class Schedule(Protocol):
    """What the loss and the samplers ask of a schedule."""

    def total(self, t: chex.Numeric) -> chex.Array:
        """Total noise sigma(t), the shape of t."""

    def rate(self, t: chex.Numeric) -> chex.Array:
        """Rate sigma'(t) = d sigma / dt, the shape of t."""

    def time(self, sigma: chex.Numeric) -> chex.Array:
        """The time t at which the total noise is sigma, the shape of sigma."""


@dataclasses.dataclass(frozen=True)
class LogLinear:
    """Keeps the label with probability `exp(-sigma(t)) = 1 - (1 - eps) t`; see `loglinear`."""

    eps: float

    def total(self, t: chex.Numeric) -> chex.Array:
        """`sigma(t) = -log1p(-(1 - eps) t)`."""
        return -jnp.log1p(-(1 - self.eps) * jnp.asarray(t))

    def rate(self, t: chex.Numeric) -> chex.Array:
        """`sigma'(t) = (1 - eps) / (1 - (1 - eps) t)`."""
        return (1 - self.eps) / (1 - (1 - self.eps) * jnp.asarray(t))

    def time(self, sigma: chex.Numeric) -> chex.Array:
        """`t = (1 - exp(-sigma)) / (1 - eps)`."""
        return -jnp.expm1(-jnp.asarray(sigma)) / (1 - self.eps)


@dataclasses.dataclass(frozen=True)
class Geometric:
    """Total noise that grows geometrically; see `geometric`."""

    sigma_min: float
    sigma_max: float

    def total(self, t: chex.Numeric) -> chex.Array:
        """`sigma(t) = sigma_min^(1 - t) sigma_max^t`."""
        log_min, log_max = math.log(self.sigma_min), math.log(self.sigma_max)
        return jnp.exp(log_min + (log_max - log_min) * jnp.asarray(t))

    def rate(self, t: chex.Numeric) -> chex.Array:
        """`sigma'(t) = sigma(t) log(sigma_max / sigma_min)`."""
        return self.total(t) * math.log(self.sigma_max / self.sigma_min)

    def time(self, sigma: chex.Numeric) -> chex.Array:
        """`t = log(sigma / sigma_min) / log(sigma_max / sigma_min)`."""
        return jnp.log(jnp.asarray(sigma) / self.sigma_min) / math.log(
            self.sigma_max / self.sigma_min
        )


def loglinear(eps: float = 1e-3) -> LogLinear:
    """The paper's schedule: the share of labels still clean falls linearly from 1 to `eps`.

    Source: arXiv 2511.20263; SEDD's `LogLinearNoise` (arXiv 2310.16834).

    Args:
      eps: probability in (0, 1) that a label is still untouched at t = 1.

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

    Raises:
      ValueError: unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"geometric: expected 0 < sigma_min < sigma_max, found {sigma_min} and {sigma_max}"
        )
    return Geometric(sigma_min, sigma_max)
